"""Starts a Ray cluster of two nodes on this machine, without jax because Ray forks.

It prints the address and the id of the second node, kills that node at each line of its input,
and ends when its input ends.
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 1024 * 1024}

if __name__ == "__main__":
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False}
    )
    try:
        doomed = cluster.add_node(**NODE)
        print(cluster.address, doomed.node_id, flush=True)
        for _ in sys.stdin:
            cluster.remove_node(doomed, allow_graceful=False)
            print("killed", flush=True)
    finally:
        cluster.shutdown()
