"""From files to batches: sources, decode, filters, resize, shards, loader; and the cache of latents and text."""
