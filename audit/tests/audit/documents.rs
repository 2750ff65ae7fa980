//! Is a document that was not shown to the database the one that it gives back?

use caracal_testing::TestDatabase;
use caracal_wire::audit::jsonb_text;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// JSON texts of every kind: any order and repetition of names, any escape, any number, white space in between.
fn document() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        4 => "[a-z_]{0,3}",
        1 => "[ -~\u{7f}-\u{2ff}\u{1f600}-\u{1f64f}\t\n]{0,4}",
    ]
    .prop_map(|text| serde_json::to_string(&text).unwrap());
    let leaf = prop_oneof![
        4 => text.clone(),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        2 => (-20_i64..20).prop_map(|number| number.to_string()),
        1 => "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,4})?([eE][+-]?[0-9])?",
        1 => "true|false|null",
    ];
    let space = "[ \t\r\n]?";
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let item = (space, inner.clone(), space).prop_map(|(before, item, after)| before + &item + &after);
        let member = (space, text.clone(), item.clone())
            .prop_map(|(before, name, item)| format!("{before}{name}:{item}"));
        prop_oneof![
            prop::collection::vec(item, 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

#[tokio::test]
async fn the_text_of_a_document_is_told_as_the_database_tells_it() {
    let mut runner = TestRunner::default();
    let documents: Vec<String> = (0..4_000)
        .map(|_| document().new_tree(&mut runner).unwrap().current())
        .collect();
    let pool = TestDatabase::new().await;
    let told: Vec<String> = sqlx::query_scalar(
        "SELECT d::jsonb::text FROM unnest($1::text[]) WITH ORDINALITY AS t (d, n) ORDER BY n",
    )
    .bind(&documents)
    .fetch_all(&pool.pool().await)
    .await
    .unwrap();
    let mut plain = 0;
    for (document, told) in documents.iter().zip(&told) {
        if let Some(text) = jsonb_text(document) {
            assert_eq!(text, *told, "of {document}");
            plain += usize::from(document.len() > 10);
        }
    }
    assert!(plain > 400, "{plain} documents of some length were plain");
}
