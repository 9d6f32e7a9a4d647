"""Counts with redis-py, plain and as a cluster client. Arguments: the nodes' addresses."""

import sys

import redis
from redis.cluster import ClusterNode, RedisCluster

addresses = [address.rsplit(":", 1) for address in sys.argv[1:]]
pages = [f"py-{number}" for number in range(12)]

for protocol in (2, 3):
    host, port = addresses[protocol % len(addresses)]
    plain = redis.Redis(host=host, port=int(port), protocol=protocol, client_name="counting", decode_responses=True)
    assert plain.ping()
    for page in pages:
        with plain.pipeline(transaction=False) as pipe:
            for _ in range(50):
                pipe.incr(page)
            assert len(pipe.execute()) == 50
    assert plain.client_getname() == "counting"
    assert plain.get("nobody") is None
    assert plain.set("set", 5) and plain.getset("set", 7) == "5" and plain.delete("set", "nobody") == 1
    try:
        plain.lpush("set", 1)
        raise SystemExit("a list was made")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error) or "wrong kind of value" in str(error), error
    assert plain.info("server")["redis_mode"] == "cluster"
    plain.close()

nodes = [ClusterNode(host, int(port)) for host, port in addresses]
cluster = RedisCluster(startup_nodes=nodes, decode_responses=True)
assert len({node.name for node in cluster.get_primaries()}) == len(addresses)
for page in pages:
    for _ in range(150):
        cluster.incr(page)
    with cluster.pipeline() as pipe:
        for _ in range(50):
            pipe.incr(page)
        pipe.execute()
assert [int(count) for count in cluster.mget_nonatomic(pages)] == [300] * len(pages)
found = set(cluster.scan_iter(match="py-*"))
assert found == set(pages), found
cluster.close()
print("counted 300 on every page")
