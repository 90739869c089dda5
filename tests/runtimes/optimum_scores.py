"""Scores of an export in optimum and, of pairs, in sentence-transformers: python optimum_scores.py FOLDER FILE TEXT..."""

import json
import sys

folder, file, *texts = sys.argv[1:]
pairs = [text.split("\t") for text in texts] if "\t" in texts[0] else None
if pairs:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, backend="onnx", model_kwargs={"file_name": file})
    scores = model.predict(pairs, apply_softmax=True)
else:
    import torch
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=file)
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
    scores = torch.softmax(model(**inputs).logits, -1).numpy()
print(json.dumps(scores.tolist()))
