"""The objects that a job consists of, as they should be. Pure.

::

    build            all of them, from job, settings and tokens
    objects          single objects: labels, owner, hashes, a Job's failure policy
    pinned           what of a job the digests are over, whatever later releases add
    pod_template     a pod from a process of the launch plan
    pod_security     the restricted Pod Security Standard, also after patches
    strategic_merge  patches as ``kubectl patch`` applies them
    network          who may talk to whom: NetworkPolicies of one job
    names            names, labels, annotations
    sizes            memory and volumes by the size of the model
    inherited        labels and annotations of the chart and the job
    kinds            kinds of objects
"""
