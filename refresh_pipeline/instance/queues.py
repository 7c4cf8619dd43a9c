"""The queues of runs on several machines: names alone. `celery_launcher` puts runs into them, `worker` takes them."""

# The queue of runs that work on one machine's files, and the tag by which `celery_launcher` knows it. Dagster's pages
# hide tags that begin with .dagster/: on one machine there are no queues.
QUEUE_TAG = ".dagster/refresh_queue"
FILES_QUEUE = "files"
# Dagster's own for all other runs.
REFRESH_QUEUE = "dagster"
ON_FILES = {QUEUE_TAG: FILES_QUEUE}
