// A kernel on the Jupyter server that also served this page, and the widgets' messages as the page's own are: without
// subshells, as in an editor that knows nothing of them, so a click waits for the running cell.
import { KernelManager, ServerConnection } from "@jupyterlab/services";

export const VIEW = "application/vnd.jupyter.widget-view+json";

export async function startKernel(token) {
  const baseUrl = `${location.origin}/`;
  const serverSettings = ServerConnection.makeSettings({ baseUrl, wsUrl: baseUrl.replace("http", "ws"), token });
  const manager = new KernelManager({ serverSettings });
  await manager.ready;
  const kernel = await manager.startNew({ name: "python3" });
  kernel.commsOverSubshells = "disabled";
  await kernel.info;
  return kernel;
}

/** Run a cell: what it printed, and the widgets that it showed, as their models' names. */
export async function runCell(kernel, code) {
  const seen = { text: "", shown: [] };
  const future = kernel.requestExecute({ code });
  let failed = null;
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") seen.text += content.text;
    if (header.msg_type === "error") failed = content.traceback.join("\n");
    if (content.data?.[VIEW]) seen.shown.push(content.data[VIEW].model_id);
  };
  await future.done;
  if (failed) throw new Error(failed);
  return seen;
}
