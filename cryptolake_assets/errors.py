"""The exceptions of CryptoLake, one a failure.

Every message names the part, the cause and what to do next; the command line prints it and exits with 1.
"""


class CryptolakeError(Exception):
    """Base of every error that a user can act on."""


class SettingsError(CryptolakeError):
    """A setting has a value that cannot be used."""

    def __init__(self, problems: str) -> None:
        super().__init__(f"settings: {problems}. Correct the variable in the environment or in .env.")


class ArgumentError(CryptolakeError):
    """An argument of a command has a value that cannot be used."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"argument {argument}: {problem}")


class JavaNotFoundError(CryptolakeError):
    """No Java 17 or 21 is at hand."""


class DownloadError(CryptolakeError):
    """A pinned file could not be fetched, or is not what its checksum says."""


class PartError(CryptolakeError):
    """A part of the platform (broker, Spark, …) did not start or died; the message names its log."""


class PortInUseError(CryptolakeError):
    """A port that a part needs is taken by another process."""


class HomeError(CryptolakeError):
    """CRYPTOLAKE_HOME cannot be used: not writable, its disk nearly full, or at work already."""


class BackupError(CryptolakeError):
    """A home cannot be copied, or a backup cannot be restored."""


class CaptureError(CryptolakeError):
    """A capture directory or file cannot be replayed."""


class UnknownSymbolError(CryptolakeError):
    """A symbol was asked for that the exchange does not list."""


class StreamUnavailableError(CryptolakeError):
    """A trade stream was asked for that the source does not offer."""


class ExchangeError(CryptolakeError):
    """The exchange could not be reached or refused a request."""


class ResponseShapeError(ExchangeError):
    """An answer of the exchange has rows, and none of them has the known shape."""


class ArchiveMissingError(CryptolakeError):
    """The public archive has no such file: not published yet, or the symbol was not listed that day."""


class ArchiveChecksumError(CryptolakeError):
    """A file of the public archive is not what its `.CHECKSUM` says."""


class ArchiveFormatError(CryptolakeError):
    """A file of the public archive does not hold what it should."""


class ArchiveRangeError(CryptolakeError):
    """A day was asked for that the lake has no partition for."""


class ResponseRejectedError(CryptolakeError):
    """A batch source answered in a shape that is not known, or with values that cannot be."""


class BrokerError(CryptolakeError):
    """Kafka could not be reached or refused a request."""


class BrokerAccessError(BrokerError):
    """Kafka is there and refuses for good: a right is missing or a setting does not fit. Waiting does not help."""


class SparkError(CryptolakeError):
    """The Spark Connect server could not be reached or failed a query."""


class DbtError(CryptolakeError):
    """dbt could not read the project, or a command of it failed."""


class CheckpointInUseError(CryptolakeError):
    """Another process holds the Bronze stream's checkpoint."""


class MaintenanceInUseError(CryptolakeError):
    """Another process maintains the tables."""


class TableNotFoundError(CryptolakeError):
    """A table is missing from the catalog."""


class LakeMarketError(CryptolakeError):
    """The lake holds another family of markets than the one that is followed."""


class LakeSchemaError(CryptolakeError):
    """A later release has migrated the lake."""


class TableUnreadableError(CryptolakeError):
    """Files that belong to a table's present state are not there."""


class SnapshotExpiredError(CryptolakeError):
    """A snapshot that was to be read has been expired."""


class ResponseTooLargeError(CryptolakeError):
    """An answer would take more memory than the settings allow."""


class ApiKeyError(CryptolakeError):
    """A key of the HTTP API cannot be made or found."""


class ApiError(CryptolakeError):
    """The HTTP API could not be reached or refused a request."""


class ApiUnreachableError(ApiError):
    """Nothing answers where the HTTP API should be."""


class ApiRefusedError(ApiError):
    """The HTTP API refused a request: `status` is HTTP's, `code` the end of the problem's type, where it has one."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class ApiAnswerError(ApiError):
    """Something answers where the HTTP API should be, but not as the API does."""


class CatalogUnreachableError(CryptolakeError):
    """The Iceberg catalog cannot be reached, or refuses what it is asked with."""


class CatalogSetupError(CryptolakeError):
    """The warehouse could not be made at the REST catalog."""


class DeleteFilesError(CryptolakeError):
    """A table holds row-level deletes, which only Spark could apply."""


class QueryError(CryptolakeError):
    """A user's SQL could not be run."""


class NotificationError(CryptolakeError):
    """An alert did not reach a notification channel."""


class RetentionError(CryptolakeError):
    """Dagster's event log is kept in a storage that retention cannot work on."""


class DemoError(CryptolakeError):
    """The demo could not be brought to its end."""
