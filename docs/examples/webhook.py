"""Receives the report of a film's end and checks that it comes from the server:

    LONGREEL_WEBHOOK_SECRET=$(longreel keys webhook-secret) python webhook.py 9000

A request with "webhook_url": "http://this-machine:9000/" is then reported here.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

SECRET = base64.b64decode(os.environ["LONGREEL_WEBHOOK_SECRET"].removeprefix("whsec_"))


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = b".".join([self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), body])
        wanted = "v1," + base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
        # Several signatures while a secret is changed; and none that is old, which somebody could have kept.
        genuine = any(hmac.compare_digest(wanted, given) for given in self.headers["webhook-signature"].split())
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        self.send_response(204 if genuine and fresh else 401)
        self.end_headers()
        if genuine and fresh:
            # webhook-id is the same when a report is sent again.
            print("reported:", json.dumps(json.loads(body)), flush=True)


server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
print(f"listening: {server.server_port}", flush=True)
server.serve_forever()
