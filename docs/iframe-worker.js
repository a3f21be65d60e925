// Lets the search work in pages that are opened as files. Browsers forbid workers there, so a hidden frame takes the
// place of the worker: messages go in and out as events, and `importScripts` loads scripts into the frame.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      const load = (path) =>
        new Promise((done, failed) => {
          const script = this.inner.document.createElement("script");
          script.src = new URL(path, location);
          script.onload = done;
          script.onerror = failed;
          this.inner.document.body.append(script);
        });
      this.inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner.importScripts = (...paths) => paths.reduce((last, path) => last.then(() => load(path)), Promise.resolve());
      this.ready = load(url);
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  }
  window.IFrameWorker = window.Worker = IFrameWorker;
}
