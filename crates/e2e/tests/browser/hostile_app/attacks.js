// Each attack on the site `target` resolves to what the page obtains: who is signed in there, a reply, a loaded resource,
// a window. Attacks on the session obtain nothing: they sign the visitor out.

const whoIn = (text) => /[\w.]+@[\w.]+/.exec(text)?.[0] ?? null;
const readBody = (response) => response.text().then(whoIn);
const signOut = (target) => `${target}/.cial/sign-out`;

const next = (source, ...events) => new Promise((resolve) => {
  for (const name of events) source.addEventListener(name, (event) => resolve(event), { once: true });
});

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

const until = async (isTrue) => {
  while (!isTrue()) await pause();
};

const insert = (kind, properties) => {
  const element = Object.assign(document.createElement(kind), properties);
  document.body.append(element);
  return element;
};

const send = (form) => insert('form', { method: 'post', ...form }).submit();

// The document of a window once it has loaded; `null` when the window belongs to another site or is out of reach.
const documentIn = async (opened) => {
  let seen = null;
  await until(() => {
    try {
      seen = opened.document;
      return opened.closed || (opened.location.href !== 'about:blank' && seen.readyState === 'complete');
    } catch {
      seen = null;
      return true;
    }
  });
  return opened.closed ? null : seen;
};

const attacks = {
  fetch: (target) => fetch(`${target}/.cial`, { credentials: 'include' }).then(readBody),

  async fetch_of_the_api(target) {
    const response = await fetch(`${target}/.cial/api/echo-path`, { credentials: 'include' });
    return response.ok ? 'a response' : null;
  },

  async fetch_with_a_preflight(target) {
    await fetch(signOut(target), { method: 'POST', credentials: 'include', headers: { 'x-any': '1' } });
  },

  async fetch_without_cors(target) {
    await fetch(signOut(target), { method: 'POST', credentials: 'include', mode: 'no-cors' });
  },

  async beacon(target) {
    const url = signOut(target);
    navigator.sendBeacon(url);
    const isSent = (entry) => entry.name === url && entry.initiatorType === 'beacon';
    await until(() => performance.getEntriesByType('resource').some(isSent));
  },

  async form_in_a_frame(target) {
    const frame = insert('iframe', { name: 'inside' });
    const loaded = next(frame, 'load');
    send({ action: signOut(target), target: 'inside' });
    await loaded;
  },

  async form_in_a_window(target) {
    const opened = open('about:blank', 'outside');
    send({ action: signOut(target), target: 'outside' });
    await documentIn(opened);
    opened.close();
  },

  async frame(target) {
    const frame = insert('iframe', { src: `${target}/.cial` });
    await next(frame, 'load');
    return whoIn(frame.contentDocument?.body?.innerText ?? '');
  },

  async window(target) {
    const opened = open(`${target}/.cial`);
    const seen = await documentIn(opened);
    // A window that left for another group of pages reads as closed a moment after its document is out of reach.
    for (let polls = 0; !seen && !opened.closed && polls < 100; polls += 1) await pause();
    const obtained = whoIn(seen?.body?.innerText ?? '') ?? (opened.closed ? null : 'a window');
    opened.close();
    return obtained;
  },

  async worker(target) {
    const worker = new Worker('/worker.js');
    const reply = next(worker, 'message');
    worker.postMessage(`${target}/.cial`);
    return whoIn((await reply).data);
  },

  async service_worker(target) {
    await navigator.serviceWorker.register('/service-worker.js', { scope: '/' });
    const { active } = await navigator.serviceWorker.ready;
    const { port1, port2 } = new MessageChannel();
    const reply = next(port1, 'message');
    port1.start();
    active.postMessage(`${target}/.cial`, [port2]);
    return whoIn((await reply).data);
  },

  async websocket(target) {
    const socket = new WebSocket(`${target.replace('http', 'ws')}/.cial/api/ws`);
    socket.onopen = () => socket.send('a reply');
    const event = await next(socket, 'message', 'close');
    return event.data ?? null;
  },

  async event_source(target) {
    const events = new EventSource(`${target}/.cial/wake`, { withCredentials: true });
    const event = await next(events, 'open', 'error');
    events.close();
    return event.type === 'open' ? 'a stream' : null;
  },

  async inclusion(target) {
    const [page, api] = [`${target}/.cial`, `${target}/.cial/api/healthz`];
    const elements = [
      insert('img', { src: page }),
      insert('script', { src: api }),
      insert('link', { rel: 'stylesheet', href: page }),
      insert('video', { src: api }),
    ];
    const events = await Promise.all(elements.map((element) => next(element, 'load', 'loadeddata', 'error')));
    return events.some((event) => event.type !== 'error') ? 'a resource' : null;
  },
};

const [name, target, done] = arguments;
attacks[name](target).then((obtained) => done(obtained ?? null), () => done(null));
