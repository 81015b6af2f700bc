"""Durable work: jobs that outlive the processes which do them, keys, quotas, and the files that jobs leave.

The row of a job is the truth; a DBOS workflow is its ticket in the queue. This package loads no torch: engines are
loaded by the worker that runs them.
"""

from phonofilm.jobs.job import Job, JobError
from phonofilm.jobs.store import Store

__all__ = ["Job", "JobError", "Store"]
