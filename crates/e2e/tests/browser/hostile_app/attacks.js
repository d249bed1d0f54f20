// Runs one attack on the site `target`, and gives its outcome to the last argument: what the page obtained, 'sent' where
// the outcome shows at the site only, 'nothing', or the name of the error. No attack runs longer than `BOUND_MS`.

const BOUND_MS = 20_000;

const whoIn = (text) => /[\w.]+@[\w.]+/.exec(text)?.[0] ?? 'nothing';
const signOut = (target) => `${target}/.cial/sign-out`;
const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

const next = (source, ...events) => new Promise((resolve) => {
  for (const name of events) source.addEventListener(name, (event) => resolve(event), { once: true });
});

const until = async (isTrue) => {
  const start = performance.now();
  while (!isTrue() && performance.now() - start < BOUND_MS / 2) await pause();
};

const insert = (kind, properties) => {
  const element = Object.assign(document.createElement(kind), properties);
  document.body.append(element);
  return element;
};

const submit = (form) => insert('form', { method: 'post', ...form }).submit();

// The text of a page in a window or a frame, as soon as the page has loaded.
const textIn = async (opened) => {
  const isLoaded = () => opened.location.href !== 'about:blank' && opened.document.readyState === 'complete';
  const read = () => {
    try {
      return isLoaded() ? opened.document.body.innerText : null;
    } catch {
      return 'out of reach';
    }
  };
  await until(() => read() !== null);
  // A window that the browser has separated from this page reads as closed.
  if (read() === 'out of reach') await until(() => opened.closed);
  return read() === 'out of reach' && !opened.closed ? 'a window' : read();
};

// Opens a window, and closes it where it is still in reach.
const withWindow = async (url, attack) => {
  const opened = open(url, 'opened');
  try {
    return await attack(opened);
  } finally {
    opened.close();
  }
};

const attacks = {
  async fetch(target) {
    const response = await fetch(`${target}/.cial`, { credentials: 'include' });
    return whoIn(await response.text());
  },

  async fetch_of_the_api(target) {
    const response = await fetch(`${target}/.cial/api/echo-path`, { credentials: 'include' });
    return response.ok ? 'a response' : 'nothing';
  },

  async fetch_with_a_preflight(target) {
    await fetch(signOut(target), { method: 'POST', credentials: 'include', headers: { 'x-any': '1' } });
    return 'sent';
  },

  async fetch_without_cors(target) {
    await fetch(signOut(target), { method: 'POST', credentials: 'include', mode: 'no-cors' });
    return 'sent';
  },

  async beacon(target) {
    const url = signOut(target);
    navigator.sendBeacon(url);
    const isSent = (entry) => entry.name === url && entry.initiatorType === 'beacon';
    await until(() => performance.getEntriesByType('resource').some(isSent));
    return 'sent';
  },

  async form_in_a_frame(target) {
    const frame = insert('iframe', { name: 'inside' });
    const loaded = next(frame, 'load');
    submit({ action: signOut(target), target: 'inside' });
    await loaded;
    return 'sent';
  },

  form_in_a_window: (target) => withWindow('about:blank', async (opened) => {
    submit({ action: signOut(target), target: 'opened' });
    await textIn(opened);
    return 'sent';
  }),

  async frame(target) {
    const frame = insert('iframe', { src: `${target}/.cial` });
    await next(frame, 'load');
    return frame.contentDocument?.body.innerText ?? 'nothing';
  },

  async frame_of_the_front_page(target) {
    const frame = insert('iframe', { src: target });
    await next(frame, 'load');
    return frame.contentDocument?.body.innerText ?? 'nothing';
  },

  window: (target) => withWindow(`${target}/.cial`, async (opened) => {
    const text = await textIn(opened);
    return text === 'a window' ? text : whoIn(text ?? '');
  }),

  // At its own site the app lets the page there reply. The core's pages do not listen.
  post_message: (target) => withWindow(`${target}/.cial`, async (opened) => {
    const text = await textIn(opened);
    if (text === 'a window' || opened.closed) return opened.closed ? 'nothing' : text;
    opened.onmessage = () => window.postMessage(opened.document.body.innerText);
    const reply = next(window, 'message');
    opened.postMessage('who?', target);
    return whoIn((await reply).data);
  }),

  async prefetch(target) {
    const link = insert('link', { rel: 'prefetch', href: `${target}/.cial` });
    const event = await next(link, 'load', 'error');
    return event.type === 'load' ? 'a resource' : 'nothing';
  },

  // Of all this, the script of the app alone is something that an element loads.
  async inclusion(target) {
    const elements = [
      insert('img', { src: `${target}/.cial` }),
      insert('link', { rel: 'stylesheet', href: `${target}/.cial` }),
      insert('video', { src: `${target}/.cial/api/healthz` }),
      insert('script', { src: `${target}/.cial/api/healthz` }),
      insert('script', { src: `${target}/worker.js` }),
    ];
    const loaded = await Promise.all(elements.map(async (element) => {
      const { type } = await next(element, 'load', 'loadeddata', 'error');
      // Chromium reports a style sheet of another type as loaded, without its rules.
      return type !== 'error' && (element.rel !== 'stylesheet' || element.sheet?.cssRules.length > 0);
    }));
    return elements.filter((_, at) => loaded[at]).map(({ src }) => src.replace(target, '')).join() || 'nothing';
  },

  async websocket(target) {
    const socket = new WebSocket(`${target.replace('http', 'ws')}/.cial/api/ws`);
    socket.onopen = () => socket.send('a reply');
    const event = await next(socket, 'message', 'close');
    socket.close();
    return event.data ?? 'nothing';
  },

  async event_source(target) {
    const events = new EventSource(`${target}/.cial/wake`, { withCredentials: true });
    const event = await next(events, 'open', 'error');
    events.close();
    return event.type === 'open' ? 'a stream' : 'nothing';
  },

  async worker(target) {
    const worker = new Worker('/worker.js');
    const reply = next(worker, 'message', 'error');
    worker.postMessage(`${target}/.cial`);
    const { data } = await reply;
    worker.terminate();
    return data.error ?? whoIn(data.text);
  },

  async service_worker(target) {
    await navigator.serviceWorker.register('/service-worker.js', { scope: '/' });
    const { active } = await navigator.serviceWorker.ready;
    const { port1, port2 } = new MessageChannel();
    const reply = next(port1, 'message');
    port1.start();
    active.postMessage(`${target}/.cial`, [port2]);
    const { data } = await reply;
    return data.error ?? whoIn(data.text);
  },
};

const [name, target, done] = arguments;
const bound = new Promise((resolve) => setTimeout(() => resolve('no end'), BOUND_MS));
Promise.race([attacks[name](target), bound]).then(done, (error) => done(error.name));
