// The frame of an output, sandboxed: it reaches nothing of the page around it but the port that it was given.
import * as base from "@jupyter-widgets/base";
import "@jupyter-widgets/controls/css/widgets.css";
import { HTMLManager } from "@jupyter-widgets/html-manager";

/** Load a module of another package as Colab does: fetch it, and let it define itself. */
async function loadModule(name) {
  const text = await (await fetch(`/renderers/node_modules/${name}/dist/index.js`)).text();
  return new Promise((resolve) => {
    new Function("define", text)((needs, make) => resolve(make(...needs.map(() => base))));
  });
}

class Comm {
  constructor(id, port) {
    Object.assign(this, { comm_id: id, target_name: "", port, listeners: [], early: [] });
  }

  receive({ data, buffers }) {
    const message = { content: { comm_id: this.comm_id, data }, buffers: buffers.map((buffer) => new Uint8Array(buffer)) };
    if (this.listeners.length === 0) this.early.push(message);
    for (const listener of this.listeners) listener(message);
  }

  on_msg(listener) {
    this.listeners.push(listener);
    for (const message of this.early.splice(0)) listener(message);
  }

  send(data, callbacks, _metadata, buffers) {
    this.port.postMessage({ id: this.comm_id, data, buffers });
    setTimeout(() => callbacks?.iopub?.status?.({ content: { execution_state: "idle" } }));
    return "";
  }

  on_close() {}

  open() {}

  close() {}
}

/** Models are made when a view first asks for them, from the state that the page around recorded. */
class Manager extends HTMLManager {
  constructor(port, loader) {
    super({ loader });
    this.port = port;
    this.asked = new Map();
    this.comms = new Map();
    this.made = new Map();
    port.onmessage = ({ data }) => {
      if (data.answer) this.asked.get(data.answer)(data);
      else this.comms.get(data.id).receive(data);
    };
  }

  get_model(id) {
    if (!this.made.has(id)) this.made.set(id, this.make(id));
    return this.made.get(id);
  }

  has_model(id) {
    return this.made.has(id);
  }

  async make(id) {
    const comm = new Comm(id, this.port);
    this.comms.set(id, comm);
    const ask = this.asked.size + 1;
    const answer = new Promise((resolve) => this.asked.set(ask, resolve));
    this.port.postMessage({ ask, id });
    const { state, buffers } = await answer;
    const views = buffers.map((buffer) => new DataView(buffer));
    base.put_buffers(state.state, state.buffer_paths ?? [], views);
    const { _model_name: model_name, _model_module: model_module, _model_module_version: model_module_version } = state.state;
    return this.new_model({ model_name, model_module, model_module_version, model_id: id, comm }, state.state);
  }
}

addEventListener("message", async ({ data, ports: [port] }) => {
  const modules = new Map();
  const loader = (name) => {
    if (!modules.has(name)) modules.set(name, loadModule(name));
    return modules.get(name);
  };
  const manager = new Manager(port, loader);
  const view = await manager.create_view(await manager.get_model(data.show));
  await manager.display_view(view, document.body);
});
