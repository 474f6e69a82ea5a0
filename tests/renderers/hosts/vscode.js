// What VS Code's Jupyter extension does in the webview of a notebook, around its own bundle of the widget manager.
import { runCell, startKernel } from "./kernel.js";

// It asks the extension where a widget's module lies, which reads this from nbextensions/anywidget/extension.js.
const SOURCES = { anywidget: "/renderers/nbextensions/anywidget/index" };

function scriptLoader(errors) {
  const known = new Set();
  return {
    widgetsRegisteredInRequireJs: known,
    errorHandler: (name, module, version, error) => errors.push(`${module} ${version} ${name}: ${error}`),
    successHandler: () => {},
    async loadWidgetScript(module) {
      if (!SOURCES[module]) throw new Error(`No local source of ${module}`);
      requirejs.config({ paths: { [module]: SOURCES[module] } });
      known.add(module);
    },
  };
}

/** A while after a widget is shown, the extension makes its plain buttons answer to keys, whether they did or not. */
function answerKeys(cell) {
  for (const button of cell.querySelectorAll("button:not([tabindex])")) {
    button.tabIndex = 0;
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      button.click();
    });
  }
}

window.openHost = async (token) => {
  const { activate } = await import("/renderers/node_modules/@vscode/jupyter-ipywidgets8/dist/ipywidgets.js");
  activate();
  window.vscIPyWidgets8.load();
  const kernel = await startKernel(token);
  const errors = [];
  const log = () => {};
  const manager = new window.vscIPyWidgets.WidgetManager(kernel, null, scriptLoader(errors), log);
  const show = async (id) => {
    const cell = document.body.appendChild(document.createElement("div"));
    cell.className = "cell-output-ipywidget-background";
    const view = await manager.create_view(await manager.get_model(id), { el: cell });
    await manager.display_view({}, view, { node: cell });
    setTimeout(() => answerKeys(cell), 500);
  };
  window.host = {
    errors,
    run: (code) => runCell(kernel, code),
    shutdown: () => kernel.shutdown(),
    async cell(code) {
      const seen = await runCell(kernel, code);
      for (const id of seen.shown) await show(id);
      return seen;
    },
  };
};
