"""Exceptions of CryptoLake, one class per failure.

Every message names the part, the cause and the next step; the command line prints it and exits with 1.
"""


class CryptolakeError(Exception):
    """Base class of all errors that a user can act on."""


class SettingsError(CryptolakeError):
    """A setting has an invalid value."""

    def __init__(self, problems: str) -> None:
        super().__init__(f"settings: {problems}. Correct the variable in the environment or in .env.")


class ArgumentError(CryptolakeError):
    """A command's argument has an invalid value."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"argument {argument}: {problem}")


class JavaNotFoundError(CryptolakeError):
    """Java 17 or 21 was not found."""


class DownloadError(CryptolakeError):
    """A pinned file could not be downloaded, or does not match its checksum."""


class PartError(CryptolakeError):
    """A part of the platform (broker, Spark, …) did not start or died; the message names its log."""


class PortInUseError(CryptolakeError):
    """Another process uses a port that a part needs."""


class HomeError(CryptolakeError):
    """CRYPTOLAKE_HOME is unusable: locked, not writable, nearly out of disk space, or only partly restored."""


class BackupError(CryptolakeError):
    """A home cannot be backed up, or a backup cannot be restored."""


class CaptureError(CryptolakeError):
    """A capture directory or file cannot be replayed."""


class UnknownSymbolError(CryptolakeError):
    """The exchange does not list a requested symbol."""


class StreamUnavailableError(CryptolakeError):
    """The source does not offer a requested trade stream."""


class ExchangeError(CryptolakeError):
    """The exchange is unreachable or rejected a request."""


class ResponseShapeError(ExchangeError):
    """A response of the exchange has rows, but none of them has the expected shape."""


class ArchiveMissingError(CryptolakeError):
    """The public archive has no such file: not published yet, or the symbol was not listed that day."""


class ArchiveChecksumError(CryptolakeError):
    """A file of the public archive does not match its `.CHECKSUM`."""


class ArchiveFormatError(CryptolakeError):
    """A file of the public archive has unexpected content."""


class ArchiveRangeError(CryptolakeError):
    """The lake has no partition for a requested day."""


class ResponseRejectedError(CryptolakeError):
    """A batch source responded in an unknown shape or with impossible values."""


class BrokerError(CryptolakeError):
    """Kafka is unreachable or rejected a request."""


class BrokerAccessError(BrokerError):
    """Kafka rejects requests permanently: a permission is missing or a setting is wrong. Retrying does not help."""


class SparkError(CryptolakeError):
    """The Spark Connect server is unreachable or failed a query."""


class DbtError(CryptolakeError):
    """dbt could not read the project, or a dbt command failed."""


class CheckpointInUseError(CryptolakeError):
    """Another process holds the Bronze stream's checkpoint."""


class PublishedMeanwhileError(CryptolakeError):
    """Another run has published an hour of Silver after this run had read its inputs."""


class MaintenanceInUseError(CryptolakeError):
    """Another process runs table maintenance."""


class TableNotFoundError(CryptolakeError):
    """A table is missing from the catalog."""


class LakeSchemaError(CryptolakeError):
    """A later release has migrated the lake's schema."""


class TableUnreadableError(CryptolakeError):
    """Files of a table's current state are missing."""


class SnapshotExpiredError(CryptolakeError):
    """The snapshot to read has expired."""


class ResponseTooLargeError(CryptolakeError):
    """A response would take more memory than the settings allow."""


class ApiKeyError(CryptolakeError):
    """A key of the HTTP API cannot be created or found."""


class ApiError(CryptolakeError):
    """The HTTP API is unreachable or rejected a request."""


class ApiUnreachableError(ApiError):
    """No server responds at the address of the HTTP API."""


class ApiRejectedError(ApiError):
    """The HTTP API rejected a request: `status` is HTTP's, `code` the last part of the problem's type or empty."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class ApiResponseError(ApiError):
    """The server at the address of the HTTP API responds, but is not this API."""


class CatalogUnreachableError(CryptolakeError):
    """The Iceberg catalog is unreachable, or rejects the credentials or the request."""


class CatalogSetupError(CryptolakeError):
    """The warehouse could not be created in the REST catalog."""


class DeleteFilesError(CryptolakeError):
    """A table has row-level deletes, which only Spark can apply."""


class QueryError(CryptolakeError):
    """A user's SQL could not be run."""


class NotificationError(CryptolakeError):
    """An alert could not be delivered to a notification channel."""


class RetentionError(CryptolakeError):
    """Retention does not support the storage of Dagster's event log."""


class DemoError(CryptolakeError):
    """The demo could not finish."""
