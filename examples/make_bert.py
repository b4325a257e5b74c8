"""Save a small BERT with random weights as a Hugging Face folder: make_bert.py FOLDER."""

import sys

import torch
import transformers

transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=1000,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=64,
)
transformers.BertModel(config).save_pretrained(sys.argv[1])
