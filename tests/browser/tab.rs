//! One tab, as a person has it: opened, looked at, left, closed, or gone with its process.

use anyhow::{Context as _, ensure};
use counter_tests::wait::until;
use serde_json::{Value, json};

use crate::chromium::Chromium;

/// A tab with cookies, storage and a process of its own: another person's. It stays open when it is dropped.
#[derive(Debug)]
pub(crate) struct Tab {
    browser: Chromium,
    target: String,
    session: String,
}

/// A number as an element shows it.
pub(crate) const SHOWN: &str = "document.querySelector('live-count').shadowRoot.querySelector('[part~=number]').textContent";

impl Tab {
    /// An empty tab.
    ///
    /// # Errors
    /// When the browser does not open one.
    pub(crate) async fn empty(browser: &Chromium) -> anyhow::Result<Self> {
        let context = browser.command(None, "Target.createBrowserContext", json!({})).await?;
        let target = json!({"url": "about:blank", "browserContextId": context["browserContextId"], "newWindow": true,
            "width": 1200, "height": 900});
        let target = text(&browser.command(None, "Target.createTarget", target).await?["targetId"])?;
        let attached = browser.command(None, "Target.attachToTarget", json!({"targetId": target, "flatten": true})).await?;
        let tab = Self { browser: browser.clone(), target, session: text(&attached["sessionId"])? };
        for domain in ["Page", "Runtime", "Log", "Audits", "Network"] {
            tab.command(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(tab)
    }

    /// A tab that has loaded this URL.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub(crate) async fn open(browser: &Chromium, url: &str) -> anyhow::Result<Self> {
        let tab = Self::empty(browser).await?;
        tab.go(url).await?;
        Ok(tab)
    }

    /// Goes to a URL, and waits until its document and scripts are there.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub(crate) async fn go(&self, url: &str) -> anyhow::Result<()> {
        let gone = self.command("Page.navigate", json!({"url": url})).await?;
        ensure!(gone.get("errorText").is_none(), "{url}: {gone}");
        self.becomes("document.readyState", &json!("complete")).await
    }

    /// The value of an expression in the document; promises are waited for.
    ///
    /// # Errors
    /// What it throws.
    pub(crate) async fn value(&self, expression: &str) -> anyhow::Result<Value> {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let mut answer = self.command("Runtime.evaluate", parameters).await?;
        ensure!(answer.get("exceptionDetails").is_none(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression has this value.
    ///
    /// # Errors
    /// With the value that it has instead.
    pub(crate) async fn becomes(&self, expression: &str, expected: &Value) -> anyhow::Result<()> {
        until(&format!("`{expression}` is {expected}"), async || {
            let value = self.value(expression).await?;
            ensure!(value == *expected, "it is {value}; the console says {:?}", self.complaints());
            Ok(())
        })
        .await
    }

    /// Waits until the first number of the document is this, as it is shown.
    ///
    /// # Errors
    /// With what is shown instead.
    pub(crate) async fn shows(&self, number: &str) -> anyhow::Result<()> {
        self.becomes(SHOWN, &json!(number)).await
    }

    /// Waits until the first number of the document has come.
    ///
    /// # Errors
    /// When none comes.
    pub(crate) async fn shows_something(&self) -> anyhow::Result<()> {
        self.becomes("document.querySelector('live-count').count !== null", &json!(true)).await
    }

    /// The whole document as a PNG.
    ///
    /// # Errors
    /// When the browser does not draw it.
    pub(crate) async fn picture(&self) -> anyhow::Result<Vec<u8>> {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.command("Page.captureScreenshot", parameters).await?;
        let encoded = picture["data"].as_str().context("there is no picture")?;
        Ok(from_base64(encoded))
    }

    /// Closes it, as people close tabs.
    ///
    /// # Errors
    /// When the browser does not.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.browser.command(None, "Target.closeTarget", json!({"targetId": self.target})).await?;
        Ok(())
    }

    /// Ends its renderer as a crash does: nothing in it gets to say good-bye.
    ///
    /// # Errors
    /// When the browser has ended.
    pub(crate) fn crash(self) -> anyhow::Result<()> {
        drop(self.browser.submit(Some(&self.session), "Page.crash", json!({}))?);
        Ok(())
    }

    /// A command to this tab.
    ///
    /// # Errors
    /// What the browser says is wrong.
    pub(crate) async fn command(&self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.browser.command(Some(&self.session), method, parameters).await
    }

    /// Pretends features that style sheets ask for, such as `prefers-color-scheme`.
    ///
    /// # Errors
    /// When the browser does not know it.
    pub(crate) async fn prefers(&self, feature: &str, value: &str) -> anyhow::Result<()> {
        let features = json!({"features": [{"name": feature, "value": value}]});
        self.command("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Presses and releases a key.
    ///
    /// # Errors
    /// When the browser does not know it.
    pub(crate) async fn press(&self, key: &str, code: u32) -> anyhow::Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if (kind, key) == ("keyDown", "Enter") {
                event["text"] = json!("\r");
            }
            self.command("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// What its console has complained of: errors, warnings, and what the policy has kept from happening.
    #[must_use]
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.browser.complaints(&self.session)
    }
}

/// Bytes from the text that the protocol has for them.
fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)).collect::<Vec<_>>();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0_usize, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend(bits.to_be_bytes()[5..].iter().take(group.len() - 1));
    }
    bytes
}

fn text(value: &Value) -> anyhow::Result<String> {
    value.as_str().map(str::to_owned).context("the browser gave no id")
}
