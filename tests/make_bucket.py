"""Makes a bucket and waits until objects can be written to it: make_bucket.py ENDPOINT KEY SECRET BUCKET [lock]

With `lock` it keeps versions, and objects in it can be locked."""
import sys
import time

import boto3
from botocore.config import Config

endpoint, key, secret, bucket, *lock = sys.argv[1:]
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    aws_access_key_id=key,
    aws_secret_access_key=secret,
    region_name="us-east-1",
    config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
)
deadline = time.monotonic() + 60
while True:
    try:
        try:
            client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=bool(lock))
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
        client.delete_object(Bucket=bucket, Key="ready")
        break
    except Exception as error:
        if time.monotonic() > deadline:
            sys.exit(f"{endpoint} does not make the bucket {bucket}: {error}")
        time.sleep(0.2)
