// Passkeys. Without this script, or without passkeys in the browser, the two forms stay hidden and passwords work.
"use strict";

async function post(path, body) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, request);
  const answer = await response.json();
  if (response.ok) return answer;
  const messages = (answer.errors ?? []).map((error) => error.message);
  throw new Error(messages.join(" ") || answer.detail);
}

async function signIn(form) {
  const { public_key } = await post("/api/auth/sign-in/passkey/challenge", {});
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(public_key);
  const credential = await navigator.credentials.get({ publicKey });
  await post("/api/auth/sign-in/passkey", { credential: credential.toJSON() });
  location.assign(form.dataset.next);
}

async function add(form) {
  const { public_key } = await post("/v1/users/me/passkeys/challenge", {});
  const options = { ...public_key, rp: { ...public_key.rp, name: "Cial" } };
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  const credential = await navigator.credentials.create({ publicKey });
  const { passkey_name, passkey_password, passkey_code } = form.elements;
  await post("/v1/users/me/passkeys", {
    name: passkey_name.value,
    password: passkey_password.value,
    code: passkey_code?.value,
    credential: credential.toJSON(),
  });
  location.reload();
}

// The messages of browsers for these errors are long and name the standard.
const MESSAGES = {
  InvalidStateError: "This device has a passkey of your account already.",
  NotAllowedError: "No passkey was used.",
  SecurityError: "Passkeys work at the admin's own address only.",
};

function enable(id, action) {
  const form = document.getElementById(id);
  if (!form || !window.PublicKeyCredential?.parseCreationOptionsFromJSON) return;
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [alert, button] = [form.querySelector("[role=alert]"), form.querySelector("button")];
    alert.hidden = button.disabled = true;
    try {
      await action(form);
    } catch (error) {
      alert.textContent = MESSAGES[error.name] ?? error.message;
      alert.hidden = false;
    }
    button.disabled = false;
  });
}

enable("sign-in-with-passkey", signIn);
enable("add-passkey", add);
