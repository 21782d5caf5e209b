"""A wide-area network on one machine (Linux, root): institutions in network namespaces, firewalls and proxies.

::

    network   namespaces, addresses, firewalls
    proxies   what stands in the way: a proxy with basic authentication, and one that inspects TLS

    python -m tools.wan.proxies --help
"""
