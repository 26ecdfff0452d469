"""Theseus: from a folder of GIFs to a video from words.

The way of the data, one clip down the line:

    sources -> decode -> filters -> resize -> shards -> loader --+
                                              text encoder ------+-> family.losses -> trainer -> checkpoint
                                              tokenizer.encode --+
    checkpoint -> pipeline.generate -> tokenizer.decode -> render -> evaluate

To read the code in that order: `data/sources`, `data/decode`, `data/prepare`, `data/shards`, `data/loader`; `contracts`;
`tokenizers/causal_vae`, `generators/dit`; `train/trainer`; `pipeline`; `render`.
"""

__version__ = "0.1.0"
