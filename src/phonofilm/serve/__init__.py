"""The service: jobs over HTTP, in the words of the clients that people have."""
