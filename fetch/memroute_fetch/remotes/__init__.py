"""Where models come from: hubs and S3 stores, asked for lists of files and for ranges of bytes."""
