//! With which text does somebody start who has never written a policy?

/// A text to start from.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) content: &'static str,
}

/// The templates, in the order in which one needs them.
pub(crate) const TEMPLATES: [Template; 5] = [
    Template {
        id: "application-bindings",
        name: "Application bindings",
        description: "Gives applications readable keys that grants refer to.",
        content: r#"# caracal:data-document
package caracal.authz

import rego.v1

app_ids := {"my-agent": "APPLICATION_ID"}
"#,
    },
    Template {
        id: "resource-grants",
        name: "Resource grants",
        description: "Names the application that owns each resource and what each role may do with it.",
        content: r#"# caracal:data-document
package caracal.authz

import rego.v1

grants := {"resource://example": {
	"application": "my-agent",
	"roles": {
		"reader": ["example:read"],
		"editor": ["example:read", "example:write"],
	},
}}
"#,
    },
    Template {
        id: "ambient-grants",
        name: "Grants for plain clients",
        description: "Lets an application without sessions use a resource through its gateway binding.",
        content: r#"# caracal:data-document
package caracal.authz

import rego.v1

app_ids := {"my-agent": "APPLICATION_ID"}

grants := {"resource://example": {
	"application": "my-agent",
	"roles": {"reader": ["example:read"]},
	"ambient": ["example:read"],
}}
"#,
    },
    Template {
        id: "label-confinement",
        name: "Label confinement",
        description: "Keeps every session with a label of a prefix within a set of scopes.",
        content: r#"# caracal:data-document
package caracal.authz

import rego.v1

confinement := [{"label_prefix": "tenant:", "scopes": ["example:read"]}]
"#,
    },
    Template {
        id: "zone-restriction",
        name: "Zone restriction",
        description: "Freezes a zone: any entry denies everything.",
        content: r"# caracal:data-document
package caracal.authz

import rego.v1

restrict := {}
",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_may_be_stored_and_compiles() {
        for template in &TEMPLATES {
            caracal_policy::document::validate(template.content).unwrap();
            caracal_policy::Bundle::compile(&[(template.id, template.content)]).unwrap();
        }
    }
}
