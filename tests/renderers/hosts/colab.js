// The page around the frame of an output: it holds the kernel, and hands over the models' states and messages.
import { runCell, startKernel } from "./kernel.js";

/** Every message of every widget so far, so that a frame that opens later gets them all, in their order. */
function record(kernel) {
  const opened = new Map();
  kernel.registerCommTarget("jupyter.widget", (comm, { content, buffers }) => {
    const known = { comm, state: content.data, buffers: copies(buffers), messages: [], port: null };
    opened.set(comm.commId, known);
    comm.onMsg = ({ content: { data }, buffers }) => {
      known.messages.push({ data, buffers: copies(buffers) });
      flush(known);
    };
  });
  return opened;
}

const copies = (views = []) =>
  views.map((view) => (view instanceof ArrayBuffer ? view : view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)));

function flush({ comm, messages, port }) {
  if (!port) return;
  for (const { data, buffers } of messages.splice(0)) port.postMessage({ id: comm.commId, data, buffers }, buffers);
}

function serve(opened, port) {
  port.onmessage = ({ data: { ask, id, data, buffers } }) => {
    const known = opened.get(id);
    if (!ask) {
      known.comm.send(data, undefined, buffers);
      return;
    }
    port.postMessage({ answer: ask, state: known.state, buffers: known.buffers });
    known.port = port;
    flush(known);
  };
}

window.openHost = async (token, frame) => {
  const kernel = await startKernel(token);
  const opened = record(kernel);
  const show = async (id) => {
    const node = document.createElement("iframe");
    node.setAttribute("sandbox", "allow-scripts");
    node.src = frame;
    node.style.cssText = "width: 100%; height: 2400px; border: 0";
    const loaded = new Promise((resolve) => node.addEventListener("load", resolve));
    document.body.append(node);
    await loaded;
    const { port1, port2 } = new MessageChannel();
    serve(opened, port1);
    node.contentWindow.postMessage({ show: id }, "*", [port2]);
  };
  window.host = {
    errors: [],
    run: (code) => runCell(kernel, code),
    shutdown: () => kernel.shutdown(),
    async cell(code) {
      const seen = await runCell(kernel, code);
      for (const id of seen.shown) await show(id);
      return seen;
    },
  };
};
