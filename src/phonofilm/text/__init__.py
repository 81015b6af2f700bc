"""Words: tokenizer, text encoder, and the matcher of text with picture and sound."""
