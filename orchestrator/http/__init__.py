"""The API: requests, responses, and the document that describes them. No rule about jobs themselves."""
