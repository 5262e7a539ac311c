//! Endpoints of the service listener (PROTOCOL §11.1), and how a call becomes an answer.

use crate::transport::Answer;
use crate::{Client, ClientError};
use countersign_core::api::{
    Acknowledgement, ArtifactsAnswer, ArtifactsCall, AttestationAnswer, AttestationCall,
    AttestationResultAnswer, AttestationResultCall, ChallengeOffer, ConsistencyProof, Enrolled,
    EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, Feed, JwkSet, OutcomesCall, Problem, Readiness,
};
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

impl Client {
    /// `GET /livez`: the process answers.
    ///
    /// # Errors
    /// [`ClientError`], here and in every method below.
    pub async fn livez(&self) -> Result<(), ClientError> {
        success(self.transport.call(Method::GET, "/livez", None).await?).map(drop)
    }

    /// `GET /readyz`; an authority that isn't ready answers too.
    pub async fn readyz(&self) -> Result<Readiness, ClientError> {
        let answer = self.transport.call(Method::GET, "/readyz", None).await?;
        if matches!(answer.status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE)
            && let Ok(readiness) = serde_json::from_slice(&answer.body)
        {
            return Ok(readiness);
        }
        json(&success(answer)?)
    }

    /// `GET /v1/head`: the newest signed head, as a note. Nothing about it is verified.
    pub async fn head(&self) -> Result<String, ClientError> {
        let answer = success(self.transport.call(Method::GET, "/v1/head", None).await?)?;
        String::from_utf8(answer.body.to_vec())
            .map_err(|_| ClientError::BadAnswer("head isn't UTF-8".to_owned()))
    }

    /// `POST /v1/enrolments`.
    pub async fn begin_enrolment(&self, call: &EnrolmentBegin) -> Result<EnrolmentOffer, ClientError> {
        self.post("/v1/enrolments", call).await
    }

    /// `POST /v1/enrolments/{id}`; `enrolment` is the identifier of the offer, hex.
    pub async fn finish_enrolment(
        &self,
        enrolment: &str,
        call: &EnrolmentFinish,
    ) -> Result<Enrolled, ClientError> {
        if enrolment.len() != 32 || !enrolment.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ClientError::BadAnswer("enrolment identifier isn't 32 hex digits".to_owned()));
        }
        self.post(&format!("/v1/enrolments/{enrolment}"), call).await
    }

    /// `POST /v1/challenges`: a challenge for the calling host.
    pub async fn challenge(&self) -> Result<ChallengeOffer, ClientError> {
        json(&success(self.transport.call(Method::POST, "/v1/challenges", None).await?)?)
    }

    /// `POST /v1/attestations`.
    pub async fn attest(&self, call: &AttestationCall) -> Result<AttestationAnswer, ClientError> {
        self.post("/v1/attestations", call).await
    }

    /// `POST /v1/attestation-results`: the calling host's newest result.
    pub async fn attestation_result(
        &self,
        call: &AttestationResultCall,
    ) -> Result<AttestationResultAnswer, ClientError> {
        self.post("/v1/attestation-results", call).await
    }

    /// `GET /.well-known/jwks.json`.
    pub async fn jwks(&self) -> Result<JwkSet, ClientError> {
        self.get("/.well-known/jwks.json").await
    }

    /// `POST /v1/artifacts`.
    pub async fn artifacts(&self, call: &ArtifactsCall) -> Result<ArtifactsAnswer, ClientError> {
        self.post("/v1/artifacts", call).await
    }

    /// `GET /v1/feed`: what is new after this size and control number.
    pub async fn feed(&self, size: u64, control: u64) -> Result<Feed, ClientError> {
        self.get(&format!("/v1/feed?size={size}&control={control}")).await
    }

    /// The same up to the newest head that enough witnesses cosigned.
    pub async fn witnessed_feed(&self, size: u64, control: u64) -> Result<Feed, ClientError> {
        self.get(&format!("/v1/feed?size={size}&control={control}&witnessed=1")).await
    }

    /// `GET /v1/log/consistency`.
    pub async fn consistency(&self, from: u64, to: u64) -> Result<ConsistencyProof, ClientError> {
        self.get(&format!("/v1/log/consistency?from={from}&to={to}")).await
    }

    /// `POST /v1/acknowledgements`.
    pub async fn acknowledge(&self, call: &Acknowledgement) -> Result<(), ClientError> {
        self.post_only("/v1/acknowledgements", call).await
    }

    /// `POST /v1/outcomes`.
    pub async fn outcomes(&self, call: &OutcomesCall) -> Result<(), ClientError> {
        self.post_only("/v1/outcomes", call).await
    }

    pub(crate) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        json(&success(self.transport.call(Method::GET, path, None).await?)?)
    }

    pub(crate) async fn post<C: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        call: &C,
    ) -> Result<A, ClientError> {
        json(&self.send(path, call).await?)
    }

    async fn post_only<C: Serialize + Sync>(&self, path: &str, call: &C) -> Result<(), ClientError> {
        self.send(path, call).await.map(drop)
    }

    async fn send<C: Serialize + Sync>(&self, path: &str, call: &C) -> Result<Answer, ClientError> {
        let body =
            serde_json::to_vec(call).map_err(|error| ClientError::BadAnswer(format!("request: {error}")))?;
        success(self.transport.call(Method::POST, path, Some(body)).await?)
    }
}

pub(crate) fn success(answer: Answer) -> Result<Answer, ClientError> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let status = answer.status.as_u16();
    match serde_json::from_slice::<Problem>(&answer.body) {
        Ok(problem) => Err(ClientError::problem(status, problem, answer.retry_after)),
        Err(_) => Err(ClientError::BadAnswer(format!("status {status} without a problem"))),
    }
}

fn json<A: DeserializeOwned>(answer: &Answer) -> Result<A, ClientError> {
    serde_json::from_slice(&answer.body).map_err(|error| ClientError::BadAnswer(error.to_string()))
}
