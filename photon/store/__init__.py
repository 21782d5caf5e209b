"""Object storage: the only durable state. Keys, conditional writes, presigned URLs, streamed safetensors."""
