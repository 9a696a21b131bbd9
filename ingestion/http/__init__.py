"""The API of ingestions and stored records: requests and responses. No rule about what a good record is."""
