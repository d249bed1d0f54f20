//! The requests of a page as the browser's own log shows them, also those whose responses the page may not read.

use std::collections::BTreeMap;

use serde_json::Value;

/// The requests that the browser's log has shown so far. The events of one request arrive in any order.
#[derive(Debug, Default)]
pub struct NetworkLog {
    requests: BTreeMap<String, Request>,
}

#[derive(Debug, Default)]
struct Request {
    url: Option<String>,
    cookies: Option<Vec<String>>,
    status: Option<u64>,
}

impl NetworkLog {
    /// Takes one entry of chromedriver's log `performance`: an event of the DevTools protocol, as text.
    pub fn add(&mut self, entry: &str) {
        let event: Value = serde_json::from_str(entry).unwrap_or_default();
        let (event, params) = (&event["message"], &event["message"]["params"]);
        let Some(id) = params["requestId"].as_str() else { return };
        let request = self.requests.entry(id.to_owned()).or_default();
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                request.url = params["request"]["url"].as_str().map(str::to_owned);
            }
            "Network.requestWillBeSentExtraInfo" => {
                let cookies = params["associatedCookies"].as_array().into_iter().flatten();
                let is_sent =
                    |c: &&Value| c["blockedReasons"].as_array().is_some_and(Vec::is_empty);
                let names = cookies.filter(is_sent).filter_map(|c| c["cookie"]["name"].as_str());
                request.cookies = Some(names.map(str::to_owned).collect());
            }
            "Network.responseReceivedExtraInfo" => request.status = params["statusCode"].as_u64(),
            _ => {}
        }
    }

    /// The responses of a site to the page: each as its status and whether the request carried this cookie, in order.
    #[must_use]
    pub fn responses(&self, site: &str, cookie: &str) -> Vec<(u64, bool)> {
        let mut responses: Vec<_> = (self.requests.values())
            .filter_map(|request| {
                let (url, cookies) = (request.url.as_ref()?, request.cookies.as_ref()?);
                let path = url.strip_prefix(site)?;
                // The browser asks for the icon when it likes.
                (path != "/favicon.ico").then_some(())?;
                Some((request.status?, cookies.iter().any(|name| name == cookie)))
            })
            .collect();
        responses.sort_unstable();
        responses
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_counts_once_all_of_it_is_known() {
        let event = |method: &str, params: Value| {
            json!({ "message": { "method": format!("Network.{method}"), "params": params } })
                .to_string()
        };
        let sent = |id: &str, url: &str| {
            event("requestWillBeSent", json!({ "requestId": id, "request": { "url": url } }))
        };
        let cookies = |id: &str, blocked: Value| {
            let cookie = json!({ "cookie": { "name": "s" }, "blockedReasons": blocked });
            let params = json!({ "requestId": id, "associatedCookies": [cookie] });
            event("requestWillBeSentExtraInfo", params)
        };
        let status = |id: &str, status: u16| {
            let params = json!({ "requestId": id, "statusCode": status });
            event("responseReceivedExtraInfo", params)
        };
        let mut log = NetworkLog::default();
        for entry in [
            status("1", 403),
            cookies("1", json!([])),
            sent("1", "http://a/x"),
            sent("2", "http://a/y"),
            cookies("2", json!(["SameSiteStrict"])),
            status("2", 200),
            sent("3", "http://a/pending"),
            sent("4", "http://b/x"),
            cookies("4", json!([])),
            status("4", 200),
            "no event".to_owned(),
        ] {
            log.add(&entry);
        }
        assert_eq!(log.responses("http://a", "s"), [(200, false), (403, true)]);
    }
}
