#!/usr/bin/env python3
"""A gRPC server with the health service of grpcio-health-checking. Prints `listening HOST:PORT`.

Takes lines `STATUS SERVICE` on its standard input, such as `NOT_SERVING shop.Orders`; no service stands for the whole server. Says `set`.
"""

import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
servicer = health.HealthServicer()
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"listening 127.0.0.1:{port}", flush=True)
for line in sys.stdin:
    status, _, service = line.strip().partition(" ")
    servicer.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    print("set", flush=True)
