//! Does every service's role get exactly what the table in `crates/storage/README.md` says?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::{BTreeMap, BTreeSet};

use caracal_migrations::Role;
use caracal_testing::TestDatabase;
use sqlx::{AssertSqlSafe, PgPool};

const README: &str = include_str!("../../crates/storage/README.md");

/// The columns of the table, in order.
const COLUMNS: [Role; 5] = [
    Role::Api,
    Role::Sts,
    Role::Gateway,
    Role::Coordinator,
    Role::Audit,
];

/// Privileges of each role on each table, as documented: `SIUD`, small letters for some columns only.
fn documented() -> BTreeMap<String, Vec<(Role, String)>> {
    README
        .lines()
        .skip_while(|line| !line.starts_with("| table | control |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let table = cells.next().unwrap().to_owned();
            (
                table,
                COLUMNS.into_iter().zip(cells.map(ToOwned::to_owned)).collect(),
            )
        })
        .collect()
}

async fn tables(pool: &PgPool) -> BTreeSet<String> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND c.relname <> '_sqlx_migrations'",
    )
    .fetch_all(pool)
    .await
    .unwrap()
    .into_iter()
    .collect()
}

/// The letter for one privilege: capital for the table, small for some columns, none for neither.
async fn granted(pool: &PgPool, role: Role, table: &str) -> String {
    let mut letters = String::new();
    for (privilege, letter) in [("SELECT", 'S'), ("INSERT", 'I'), ("UPDATE", 'U'), ("DELETE", 'D')] {
        let whole: bool = sqlx::query_scalar("SELECT has_table_privilege($1, $2, $3)")
            .bind(role.name())
            .bind(table)
            .bind(privilege)
            .fetch_one(pool)
            .await
            .unwrap();
        let some: bool = privilege != "DELETE"
            && sqlx::query_scalar("SELECT has_any_column_privilege($1, $2, $3)")
                .bind(role.name())
                .bind(table)
                .bind(privilege)
                .fetch_one(pool)
                .await
                .unwrap();
        if whole {
            letters.push(letter);
        } else if some {
            letters.push(letter.to_ascii_lowercase());
        }
    }
    letters
}

#[tokio::test]
async fn the_documented_table_is_what_is_granted() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    let documented = documented();
    assert_eq!(
        tables(&pool).await,
        documented.keys().cloned().collect(),
        "every table is documented, and exists"
    );
    let mut differences = Vec::new();
    for (table, roles) in &documented {
        for (role, expected) in roles {
            let granted = granted(&pool, *role, table).await;
            if granted != *expected {
                differences.push(format!(
                    "{table}, {role:?}: documented {expected:?}, granted {granted:?}"
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Runs a statement as a service's login and tells whether the role was refused.
async fn refused(pool: &PgPool, statement: String) -> bool {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL caracal.zone_id = '*'")
        .execute(&mut *tx)
        .await
        .unwrap();
    match sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await {
        Ok(_) => false,
        Err(error) => error
            .as_database_error()
            .and_then(|e| e.code().map(|c| c == "42501"))
            .unwrap(),
    }
}

#[tokio::test]
async fn a_role_is_refused_everything_else() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    let mut wrong = Vec::new();
    for role in COLUMNS {
        let pool = database.pool_as(role).await;
        for (table, roles) in documented() {
            let expected = roles
                .iter()
                .find(|(r, _)| *r == role)
                .map(|(_, letters)| letters.to_uppercase())
                .unwrap();
            // An audited column that may be read or set is enough for a right on some columns.
            let read = first_column(&owner, role, &table, "SELECT")
                .await
                .unwrap_or_else(|| "1".to_owned());
            let set = first_column(&owner, role, &table, "UPDATE").await;
            let set = match set {
                Some(column) => column,
                None => first_column(&owner, Role::Api, &table, "").await.unwrap(),
            };
            for (letter, statement) in [
                ('S', format!("SELECT {read} FROM {table} LIMIT 0")),
                ('I', format!("INSERT INTO {table} DEFAULT VALUES")),
                ('U', format!("UPDATE {table} SET {set} = DEFAULT WHERE false")),
                ('D', format!("DELETE FROM {table} WHERE false")),
            ] {
                if refused(&pool, statement).await == expected.contains(letter) {
                    wrong.push(format!("{role:?} {letter} {table}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A column of `table` on which `role` has `privilege`; any plain column when `privilege` is empty.
async fn first_column(owner: &PgPool, role: Role, table: &str, privilege: &str) -> Option<String> {
    sqlx::query_scalar(
        "SELECT quote_ident(attname) FROM pg_attribute
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
           AND ($3 = '' OR has_column_privilege($2, attrelid, attnum, nullif($3, '')))
         ORDER BY attnum LIMIT 1",
    )
    .bind(table)
    .bind(role.name())
    .bind(privilege)
    .fetch_optional(owner)
    .await
    .unwrap()
}

#[tokio::test]
async fn no_role_can_create_tables_or_reach_a_partition_directly() {
    let database = TestDatabase::new().await;
    for role in COLUMNS {
        let pool = database.pool_as(role).await;
        assert!(
            refused(&pool, "CREATE TABLE of_my_own (id int)".to_owned()).await,
            "{role:?}"
        );
        assert!(
            refused(&pool, "SELECT 1 FROM audit_events_default LIMIT 0".to_owned()).await,
            "{role:?}"
        );
    }
}

#[tokio::test]
async fn only_the_audit_role_may_make_and_drop_partitions() {
    let database = TestDatabase::new().await;
    for role in COLUMNS {
        let pool = database.pool_as(role).await;
        let refused = refused(&pool, "SELECT audit_partition_ensure('2031-01-15')".to_owned()).await;
        assert_eq!(refused, role != Role::Audit, "{role:?}");
    }
}

#[tokio::test]
async fn a_service_can_read_the_schema_version_and_not_change_it() {
    let database = TestDatabase::new().await;
    for role in COLUMNS {
        let pool = database.pool_as(role).await;
        assert!(
            !refused(&pool, "SELECT version FROM _sqlx_migrations".to_owned()).await,
            "{role:?}"
        );
        assert!(
            refused(&pool, "DELETE FROM _sqlx_migrations".to_owned()).await,
            "{role:?}"
        );
    }
}

#[tokio::test]
async fn nobody_but_the_owner_can_run_what_the_triggers_run() {
    let database = TestDatabase::new().await;
    for role in COLUMNS {
        let pool = database.pool_as(role).await;
        assert!(
            refused(&pool, "SELECT move_zone_versions(ARRAY['z'])".to_owned()).await,
            "{role:?}"
        );
    }
}
