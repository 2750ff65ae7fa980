//! Which login acts for which role, and with which password?
//!
//! The migrations create roles that cannot log in. Each deployment attaches one login per service as a member of its
//! role. Logins belong to the cluster, so other databases and other processes may be doing the same right now.

use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// The role of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Control API.
    Api,
    /// Token service.
    Sts,
    /// Gateway.
    Gateway,
    /// Audit.
    Audit,
    /// Coordinator.
    Coordinator,
    /// The console's account service; has a database of its own and no grant here.
    Auth,
}

impl Role {
    /// Every role, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Api,
        Self::Sts,
        Self::Gateway,
        Self::Coordinator,
        Self::Audit,
        Self::Auth,
    ];

    /// Name of the role in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "caracalapi",
            Self::Sts => "caracalsts",
            Self::Gateway => "caracalgateway",
            Self::Audit => "caracalaudit",
            Self::Coordinator => "caracalcoordinator",
            Self::Auth => "caracalauth",
        }
    }

    /// Name of the login that is a member of the role.
    pub fn login(self) -> String {
        format!("{}_login", self.name())
    }
}

/// How often a statement on the cluster's shared catalogue is tried when another session touches the same row.
const ATTEMPTS: u32 = 20;

/// Makes sure that each role has its login `<role>_login`, and sets the password where one is given.
///
/// Calling it again changes nothing but the passwords. Without a password a login can only be used where the server's
/// own rules (`pg_hba.conf`) let it in without one.
///
/// # Errors
/// The database's answer: no permission to create roles, or the database is out of reach.
pub async fn attach_logins<P: AsRef<str>>(
    pool: &PgPool,
    logins: &[(Role, Option<P>)],
) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    for (role, password) in logins {
        let name = role.login();
        let member_of = role.name();
        // Both names are constants of this file, so they are safe inside statements.
        let attach = format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{name}') THEN
                     CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS INHERIT IN ROLE {member_of};
                 ELSIF NOT pg_has_role('{name}', '{member_of}', 'MEMBER') THEN
                     GRANT {member_of} TO {name};
                 END IF;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
             END $$"
        );
        persist(&mut connection, &attach, None).await?;
        if let Some(password) = password {
            // The password travels as a parameter: statements may be logged, here and on the server.
            let set = format!(
                "DO $$ BEGIN
                     EXECUTE format('ALTER ROLE {name} LOGIN PASSWORD %L', current_setting('caracal.login_password'));
                 END $$"
            );
            persist(&mut connection, &set, Some(password.as_ref())).await?;
        }
    }
    Ok(())
}

/// Runs `statement`, again if another session changed the same row of the shared catalogue meanwhile.
///
/// PostgreSQL answers that case with an internal error (XX000, "tuple concurrently updated") instead of waiting. The
/// password is readable as the setting `caracal.login_password` while the statement runs.
async fn persist(
    connection: &mut PgConnection,
    statement: &str,
    password: Option<&str>,
) -> Result<(), sqlx::Error> {
    let mut attempt = 1;
    loop {
        let mut transaction = connection.begin().await?;
        if let Some(password) = password {
            sqlx::query("SELECT set_config('caracal.login_password', $1, true)")
                .bind(password)
                .execute(&mut *transaction)
                .await?;
        }
        match sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *transaction)
            .await
        {
            Ok(_) => return transaction.commit().await,
            Err(error) if attempt < ATTEMPTS && was_concurrent(&error) => {
                transaction.rollback().await?;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

fn was_concurrent(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|answer| {
        answer
            .code()
            .is_some_and(|code| code == "XX000" || code == "40001" || code == "40P01")
    })
}
