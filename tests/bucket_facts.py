"""Says what an S3 server does for a bucket, as boto3 sees it: bucket_facts.py ENDPOINT KEY SECRET BUCKET

Prints four words, each true or false: keeps versions, locks objects, verifies checksums, keeps storage classes."""
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, key, secret, bucket = sys.argv[1:]
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    aws_access_key_id=key,
    aws_secret_access_key=secret,
    region_name="us-east-1",
    config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
)


def asked(call, found):
    try:
        return found(call(Bucket=bucket))
    except ClientError:
        return False


def taken(**options):
    try:
        client.put_object(Bucket=bucket, Key="facts", Body=b"fact", **options)
        return True
    except ClientError:
        return False


versions = asked(client.get_bucket_versioning, lambda answer: answer.get("Status") == "Enabled")
locks = asked(
    client.get_object_lock_configuration,
    lambda answer: answer["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled",
)
checksums = not taken(ChecksumSHA256="A" * 43 + "=")
classes = (
    taken(StorageClass="STANDARD_IA")
    and client.head_object(Bucket=bucket, Key="facts").get("StorageClass") == "STANDARD_IA"
)
client.delete_object(Bucket=bucket, Key="facts")
print(*(str(fact).lower() for fact in (versions, locks, checksums, classes)))
