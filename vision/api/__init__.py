"""The service's faces: `/v1/predict`, the Open Inference Protocol (REST, gRPC), metrics, health."""
