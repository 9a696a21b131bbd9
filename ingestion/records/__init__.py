"""From the bytes that somebody sent to student records, or to what is wrong with them. Pure: no database, no HTTP."""
