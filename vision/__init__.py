"""The vision side-service: `/v1/predict` and the Open Inference Protocol over models of images.

repository   `models/<name>/<version>/model.{plan,onnx,pt2}` and `config.yaml`
model        what clients name; it has versions, and the repository says which of them serve
runtime      what executes a file: TensorRT, ONNX Runtime, torch
instance     one execution context of a loaded version; one thread calls it
lane         a loaded version's queue, its batches and its instances
item         one image or one set of tensors of a request; its rows travel in one batch
"""
