"""Probabilities of pairs in sentence-transformers: python cross_encoder_scores.py FOLDER FILE "TEXT<tab>TEXT"..."""

import json
import sys

from sentence_transformers import CrossEncoder

folder, file, *pairs = sys.argv[1:]
model = CrossEncoder(folder, backend="onnx", model_kwargs={"file_name": file})
scores = model.predict([tuple(pair.split("\t")) for pair in pairs], apply_softmax=True)
print(json.dumps(scores.tolist()))
