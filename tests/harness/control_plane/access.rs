//! Who may do what: an administrator, and a user with exactly the rights that the chart gives the operator.

use std::path::Path;

use anyhow::Context as _;
use k8s_openapi::api::rbac::v1::PolicyRule;
use rcgen::KeyPair;

use crate::programs;

pub(super) const ADMIN_TOKEN: &str = "admin-of-the-tests";
pub(super) const OPERATOR_TOKEN: &str = "operator-of-the-tests";
pub(super) const OPERATOR: &str = "operator";
pub(super) const TOKENS_FILE: &str = "tokens.csv";
pub(super) const ACCOUNTS_KEY_FILE: &str = "accounts.key";
pub(super) const ACCOUNTS_PUBLIC_KEY_FILE: &str = "accounts.pub";

/// Writes what the API server knows its users by.
pub(super) fn write_credentials(folder: &Path) -> anyhow::Result<()> {
    let tokens = format!("{ADMIN_TOKEN},admin,1,\"system:masters\"\n{OPERATOR_TOKEN},{OPERATOR},2\n");
    std::fs::write(folder.join(TOKENS_FILE), tokens)?;
    let key = KeyPair::generate()?;
    std::fs::write(folder.join(ACCOUNTS_KEY_FILE), key.serialize_pem())?;
    std::fs::write(folder.join(ACCOUNTS_PUBLIC_KEY_FILE), key.public_key_pem())?;
    Ok(())
}

/// A kubeconfig for the API server at `port`. Its certificate is its own, made at its start.
pub(super) fn kubeconfig(port: u16, token: &str, namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: tests\n\
         clusters: [{{name: tests, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: tests, user: {{token: {token}}}}}]\n\
         contexts: [{{name: tests, context: {{cluster: tests, user: tests, namespace: {namespace}}}}}]\n"
    )
}

/// The rules that the chart gives the operator: for its work, and for the election.
pub(super) struct Rules {
    pub(super) work: Vec<PolicyRule>,
    pub(super) lead: Vec<PolicyRule>,
}

impl Rules {
    /// Read from the chart's own text, so that a right that the operator needs and the chart lacks fails here.
    pub(super) fn of_the_chart() -> anyhow::Result<Self> {
        let templates = programs::repository("charts/distributed-counter/templates");
        let names = std::fs::read_to_string(templates.join("_names.tpl"))?;
        let rbac = std::fs::read_to_string(templates.join("rbac.yaml"))?;
        let work = names.split_once("define \"dc.rules\" -}}").context("the chart has no dc.rules")?.1;
        // Rules behind a condition are for settings that the tests do not use.
        let work = work.split("{{-").next().unwrap_or_default();
        let lead = rbac.rsplit_once("-leader\n  namespace").context("the chart has no role for the election")?.0;
        let lead = lead.split_once("rules:\n  # A create").context("the chart's role for the election has no rules")?.1;
        let lead = lead.split_once('\n').and_then(|(_, rest)| rest.split_once("---")).context("the rules have no end")?.0;
        let lead = lead.replace("{{ .Values.leaderElection.leaseName }}", "distributed-counter-operator");
        Ok(Self {
            work: serde_saphyr::from_str(work).context("dc.rules cannot be read")?,
            lead: serde_saphyr::from_str(&lead).context("the election's rules cannot be read")?,
        })
    }
}
