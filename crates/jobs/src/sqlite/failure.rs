//! From what SQLite says to what a person can do about it.

use std::path::Path;

use crate::error::StoreError;
use crate::id::RandomError;
use crate::key::KeyRefusal;
use crate::room::{has_no_room_beside, is_no_room};

/// Why a piece of database work stopped.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database failed.
    Sql(sqlx::Error),
    /// A value in the database is not what was ever written there.
    Unreadable(String),
    /// The call is refused.
    Refused(StoreError),
}

/// The result of a piece of database work.
pub(super) type Attempted<T> = Result<T, Failure>;

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<RandomError> for Failure {
    fn from(error: RandomError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<KeyRefusal> for Failure {
    fn from(error: KeyRefusal) -> Self {
        Self::Refused(error.into())
    }
}

/// Tells a failure with the database and what was tried.
pub(super) fn explain(
    failure: Failure,
    action: &'static str,
    path: &Path,
    waited_ms: u64,
) -> StoreError {
    let error = match failure {
        Failure::Refused(error) => return error,
        Failure::Unreadable(detail) => {
            return StoreError::Damaged { path: path.into(), detail };
        }
        Failure::Sql(error) => error,
    };
    let path = path.to_path_buf();
    let cause = error.to_string();
    match error {
        sqlx::Error::PoolTimedOut => StoreError::Locked { path, action, waited_ms },
        sqlx::Error::Io(error) if is_no_room(&error) => StoreError::DiskFull { path, action },
        sqlx::Error::Io(_) => StoreError::Unusable { path, cause },
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            StoreError::Damaged { path, detail: cause }
        }
        sqlx::Error::Database(error) => {
            let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            // The low byte is the result code proper, see https://www.sqlite.org/rescode.html.
            match code & 0xff {
                // SQLITE_BUSY, SQLITE_LOCKED
                5 | 6 => StoreError::Locked { path, action, waited_ms },
                // SQLITE_CORRUPT, SQLITE_NOTADB
                11 | 26 => StoreError::Damaged { path, detail: error.message().into() },
                // SQLITE_FULL
                13 => StoreError::DiskFull { path, action },
                // SQLITE_IOERR, SQLITE_CANTOPEN: so it is told that a quota is used up, that a file
                // beside the database cannot grow or be made, that writing was found to have failed later.
                10 | 14 if has_no_room_beside(&path) => StoreError::DiskFull { path, action },
                // SQLITE_PERM, SQLITE_READONLY, SQLITE_IOERR, SQLITE_CANTOPEN
                3 | 8 | 10 | 14 => StoreError::Unusable { path, cause: error.message().into() },
                _ => StoreError::Database { action, cause },
            }
        }
        _ => StoreError::Database { action, cause },
    }
}
