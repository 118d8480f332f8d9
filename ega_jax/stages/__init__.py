"""EGA's stages of training: each module builds one `Stage` from a config; `recipe` puts them in order."""
