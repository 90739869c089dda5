"""Probabilities of an export in optimum: python optimum_scores.py FOLDER FILE TEXT..."""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer

folder, file, *texts = sys.argv[1:]
model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=file)
inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
print(json.dumps(torch.softmax(model(**inputs).logits, -1).tolist()))
