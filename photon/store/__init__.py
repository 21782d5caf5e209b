"""Object storage: the only durable state. Keys, conditional writes, presigned URLs, streamed safetensors.

::

    objects    the bucket: objects below one prefix, conditional writes, presigned URLs
    s3         the S3 client and its requests
    keys       where everything is below the job's prefix
    owner      whose a prefix is
    location   s3://bucket/prefix as a person types it
    chain      the chain of commits
    transfer   whole objects to and from presigned URLs
    source     random reads of one file, on disk or in the store
    sink       one output file, written in stripes
    multipart  one large object, written in parts
    tensors    headers of safetensors files
    probe      whether a store can do what a job needs
    http       one kept-alive connection, and what answers mean
    network    proxies and certificates
    retry      how often a request is sent, and the pauses between
    errors     what can go wrong, and what to do about it
"""
