"""Every error metriclog raises, as one tree.

    MetriclogError
    ├── UsageError                 the caller did something that cannot work; raised at the caller's line
    │   ├── MetricNameError        (ValueError) a metric, tag or parameter name that cannot be stored
    │   ├── MetricValueError       (TypeError)  a metric value that is not one real number
    │   ├── StepError              (TypeError)  a step or time stamp that is not usable
    │   ├── NoActiveRunError       metriclog.log() and friends without metriclog.init()
    │   ├── RunFinishedError       logging to a run after finish()
    │   ├── RunExistsError         resume="never" and the run is already in the journal
    │   ├── RunNotFoundError       resume="must", or reading, and the run is nowhere
    │   └── RunActiveError         another live process writes the same run and rank
    ├── SettingsError              a METRICLOG_* variable or Settings field that cannot work
    ├── MissingPackageError        (ImportError) an optional package is needed; the message names the extra
    ├── JournalError               the journal on disk could not be written or read
    │   └── JournalFullError       no room for another segment; points are counted as dropped
    ├── DeliveryError              a point is not on the server
    │   ├── NotDeliveredError      not yet: still pending in the journal when the wait ended, or nothing ships it
    │   └── QuarantinedError       never as it is: the server refused it for good; it is kept with the reason
    ├── ServerError                what a server answered (raised by the transport only)
    │   ├── TransientError         passing: retry. Carries retry_after_s
    │   ├── RejectedError          the configuration is wrong (token, bucket, URL): keep, say, retry slowly
    │   ├── TooLargeError          the body is too large: split
    │   ├── UnparsableError        some lines cannot be parsed; carries them with the server's reasons
    │   ├── PartialWriteError      some points of the body were refused, the rest stored: bisect
    │   └── BadRequestError        a 400 of no known kind: bisect
    ├── QueryError                 the server could not answer a query
    └── GrafanaError               what a Grafana answered, or that it did not

Data is in attributes, so that code never parses a message.
"""

from __future__ import annotations


class MetriclogError(Exception):
    """Base of every error of this package."""


class UsageError(MetriclogError):
    """The caller did something that cannot work."""


class MetricNameError(UsageError, ValueError):
    """A metric, tag or parameter name (or a tag value) that cannot be stored."""


class MetricValueError(UsageError, TypeError):
    """A metric value that is not one real number."""


class StepError(UsageError, TypeError):
    """A step that is not an integer, or a time stamp outside the range of nanoseconds since 1970."""


class NoActiveRunError(UsageError):
    """A module-level call without a run."""


class RunFinishedError(UsageError):
    """A call on a run that has been finished."""


class RunExistsError(UsageError):
    """The run is already in the journal directory and `resume` is "never"."""


class RunNotFoundError(UsageError, LookupError):
    """The run is not in the journal directory, or not on the server."""


class RunActiveError(UsageError):
    """Another live process writes the same run and rank."""


class SettingsError(MetriclogError, ValueError):
    """A setting that cannot work."""


class MissingPackageError(MetriclogError, ImportError):
    """An optional package is needed."""


class JournalError(MetriclogError):
    """The journal on disk could not be written or read."""


class JournalFullError(JournalError):
    """There is no room for another journal segment."""


class DeliveryError(MetriclogError):
    """A point is not on the server."""


class NotDeliveredError(DeliveryError):
    """A point is still pending in the journal."""


class QuarantinedError(DeliveryError):
    """The server refused a point for good; `reason` holds its words."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server can never take this point as it is: {reason}. It is kept in the quarantine file")
        self.reason = reason

    def __reduce__(self) -> tuple[type[QuarantinedError], tuple[str]]:
        return type(self), (self.reason,)  # a worker process hands its errors on by pickle


class ServerError(MetriclogError):
    """What a server answered. `status` is the HTTP status, or None if there was no answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class TransientError(ServerError):
    """A trouble that can pass; `retry_after_s` is the server's wish in seconds, or None."""

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after_s = retry_after_s


class RejectedError(ServerError):
    """The server refuses the request as a whole: token, organisation, bucket or URL are wrong."""


class TooLargeError(ServerError):
    """The body is too large for the server."""


class UnparsableError(ServerError):
    """Lines the server cannot parse: `reasons` maps each line to the server's words. Nothing of the body is stored."""

    def __init__(self, message: str, *, status: int | None = None, reasons: dict[bytes, str]) -> None:
        super().__init__(message, status=status)
        self.reasons = reasons


class PartialWriteError(ServerError):
    """Some points were refused and the rest may be stored; only a later yes proves the rest."""


class BadRequestError(ServerError):
    """A 400 of no known kind."""


class QueryError(MetriclogError):
    """The server could not answer a query."""


class GrafanaError(MetriclogError):
    """A Grafana did not do what it was asked. `status` is the HTTP status, or None if there was no usable answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
