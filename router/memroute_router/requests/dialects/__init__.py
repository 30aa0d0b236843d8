"""One module for each way in which a request may be written."""
