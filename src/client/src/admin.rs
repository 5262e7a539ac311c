//! Endpoints of the admin listener (PROTOCOL §11.2).

use crate::service::success;
use crate::{Client, ClientError};
use countersign_core::api::admin::{
    ActiveDocument, CaptureCall, CompromiseCall, GatewayCall, Heads, HostDocument, Hosts, JoinTokenCall,
    JoinTokenMade, KeyPrepared, Keys, Leaves, LineagePage, OperatorCall, PolicyCall, PolicyCheckCall,
    PolicyChecked, PolicyValidateCall, PolicyValidated, PrepareKeyCall, Principals, ReferencesCall,
    ReferencesCaptured, ReferencesCheckCall, RevocationCall, RotateCall, WithdrawKeyCall, WitnessCall,
    Witnesses,
};
use countersign_core::api::{AttestationResultAnswer, AttestationResultCall, CertificateIssued, Recorded};
use countersign_core::digest::Sha256Digest;
use countersign_core::name::HostId;
use http::Method;

/// Where a page begins and how long it is, as it is added to a query.
fn page(after: Option<&str>, count: Option<u64>) -> String {
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    let count = count.map_or_else(String::new, |count| format!("&count={count}"));
    format!("{after}{count}")
}

impl Client {
    /// `GET /v1/admin/hosts`: one page, after this host.
    ///
    /// # Errors
    /// [`ClientError`], here and in every method below.
    pub async fn hosts(&self, after: Option<&HostId>) -> Result<Hosts, ClientError> {
        match after {
            Some(after) => self.get(&format!("/v1/admin/hosts?after={after}")).await,
            None => self.get("/v1/admin/hosts").await,
        }
    }

    /// `GET /v1/admin/hosts/{id}`.
    pub async fn host(&self, host: &HostId) -> Result<HostDocument, ClientError> {
        self.get(&format!("/v1/admin/hosts/{host}")).await
    }

    /// `GET /v1/admin/keys`.
    pub async fn keys(&self) -> Result<Keys, ClientError> {
        self.get("/v1/admin/keys").await
    }

    /// `GET /v1/admin/policy`.
    pub async fn policy(&self) -> Result<ActiveDocument, ClientError> {
        self.get("/v1/admin/policy").await
    }

    /// `GET /v1/admin/references`.
    pub async fn references(&self) -> Result<ActiveDocument, ClientError> {
        self.get("/v1/admin/references").await
    }

    /// `GET /v1/admin/principals`.
    pub async fn principals(&self) -> Result<Principals, ClientError> {
        self.get("/v1/admin/principals").await
    }

    /// `POST /v1/admin/keys/withdraw`.
    pub async fn withdraw_key(&self, call: &WithdrawKeyCall) -> Result<Keys, ClientError> {
        self.post("/v1/admin/keys/withdraw", call).await
    }

    /// `POST /v1/admin/hosts/{id}/attestation-result`.
    pub async fn attestation_result_of(
        &self,
        host: &HostId,
        call: &AttestationResultCall,
    ) -> Result<AttestationResultAnswer, ClientError> {
        self.post(&format!("/v1/admin/hosts/{host}/attestation-result"), call).await
    }

    /// `GET /v1/admin/witnesses`.
    pub async fn witnesses(&self) -> Result<Witnesses, ClientError> {
        self.get("/v1/admin/witnesses").await
    }

    /// `POST /v1/admin/witnesses`.
    pub async fn decide_witness(&self, call: &WitnessCall) -> Result<Witnesses, ClientError> {
        self.post("/v1/admin/witnesses", call).await
    }

    /// `GET /v1/admin/lineage/artifacts`: artifacts with one property, such as `host` or `pcr`; its value goes out as it is.
    pub async fn lineage_artifacts(
        &self,
        property: &str,
        value: &str,
        after: Option<&str>,
        count: Option<u64>,
    ) -> Result<LineagePage, ClientError> {
        let page = page(after, count);
        self.get(&format!("/v1/admin/lineage/artifacts?{property}={value}{page}")).await
    }

    /// `GET /v1/admin/lineage/ancestors/{index}`.
    pub async fn lineage_ancestors(
        &self,
        index: u64,
        after: Option<&str>,
        count: Option<u64>,
    ) -> Result<LineagePage, ClientError> {
        let page = page(after, count);
        self.get(&format!("/v1/admin/lineage/ancestors/{index}?{page}")).await
    }

    /// `GET /v1/admin/lineage/descendants/{index}`.
    pub async fn lineage_descendants(
        &self,
        index: u64,
        after: Option<&str>,
        count: Option<u64>,
    ) -> Result<LineagePage, ClientError> {
        let page = page(after, count);
        self.get(&format!("/v1/admin/lineage/descendants/{index}?{page}")).await
    }

    /// `GET /v1/admin/log/leaves`: at most `count`, fewer if the server's limit is lower.
    pub async fn leaves(&self, from: u64, count: u64) -> Result<Leaves, ClientError> {
        self.get(&format!("/v1/admin/log/leaves?from={from}&count={count}")).await
    }

    /// `GET /v1/admin/log/heads`: heads of at least the size `from`.
    pub async fn heads(&self, from: u64, count: u64) -> Result<Heads, ClientError> {
        self.get(&format!("/v1/admin/log/heads?from={from}&count={count}")).await
    }

    /// `GET /v1/admin/blobs/{digest}`; the bytes aren't checked against the digest here.
    pub async fn blob(&self, digest: &Sha256Digest) -> Result<Vec<u8>, ClientError> {
        let path = format!("/v1/admin/blobs/{digest}");
        Ok(success(self.transport.call(Method::GET, &path, None).await?)?.body.to_vec())
    }

    /// `GET /metrics`.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let answer = success(self.transport.call(Method::GET, "/metrics", None).await?)?;
        String::from_utf8(answer.body.to_vec())
            .map_err(|_| ClientError::BadAnswer("metrics aren't UTF-8".to_owned()))
    }

    /// `POST /v1/admin/join-tokens`.
    pub async fn make_join_token(&self, call: &JoinTokenCall) -> Result<JoinTokenMade, ClientError> {
        self.post("/v1/admin/join-tokens", call).await
    }

    /// `POST /v1/admin/references/capture`: a document, not active.
    pub async fn capture_references(&self, call: &CaptureCall) -> Result<ReferencesCaptured, ClientError> {
        self.post("/v1/admin/references/capture", call).await
    }

    /// `POST /v1/admin/references`.
    pub async fn activate_references(&self, call: &ReferencesCall) -> Result<Recorded, ClientError> {
        self.post("/v1/admin/references", call).await
    }

    /// `POST /v1/admin/policies/validate`.
    pub async fn validate_policy(&self, call: &PolicyValidateCall) -> Result<PolicyValidated, ClientError> {
        self.post("/v1/admin/policies/validate", call).await
    }

    /// `POST /v1/admin/references/check`.
    pub async fn check_references(&self, call: &ReferencesCheckCall) -> Result<PolicyChecked, ClientError> {
        self.post("/v1/admin/references/check", call).await
    }

    /// `POST /v1/admin/policies/check`.
    pub async fn check_policy(&self, call: &PolicyCheckCall) -> Result<PolicyChecked, ClientError> {
        self.post("/v1/admin/policies/check", call).await
    }

    /// `POST /v1/admin/policies`.
    pub async fn activate_policy(&self, call: &PolicyCall) -> Result<Recorded, ClientError> {
        self.post("/v1/admin/policies", call).await
    }

    /// `POST /v1/admin/revocations`.
    pub async fn revoke(&self, call: &RevocationCall) -> Result<Recorded, ClientError> {
        self.post("/v1/admin/revocations", call).await
    }

    /// `POST /v1/admin/gateways`.
    pub async fn add_gateway(&self, call: &GatewayCall) -> Result<CertificateIssued, ClientError> {
        self.post("/v1/admin/gateways", call).await
    }

    /// `POST /v1/admin/operators`.
    pub async fn add_operator(&self, call: &OperatorCall) -> Result<CertificateIssued, ClientError> {
        self.post("/v1/admin/operators", call).await
    }

    /// `POST /v1/admin/keys/prepare`: a key in its token, for an officer to approve.
    pub async fn prepare_key(&self, call: &PrepareKeyCall) -> Result<KeyPrepared, ClientError> {
        self.post("/v1/admin/keys/prepare", call).await
    }

    /// `POST /v1/admin/keys/compromise`.
    pub async fn compromise_key(&self, call: &CompromiseCall) -> Result<Keys, ClientError> {
        self.post("/v1/admin/keys/compromise", call).await
    }

    /// `POST /v1/admin/keys/rotate`: answers when the new key is introduced; activation follows by itself.
    pub async fn rotate_key(&self, call: &RotateCall) -> Result<Keys, ClientError> {
        self.post("/v1/admin/keys/rotate", call).await
    }
}
