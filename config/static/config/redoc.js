// Redoc would ask a foreign host for its logo. It gets ours.
const ours = (value) => (value === "https://cdn.redoc.ly/redoc/logo-mini.svg" ? "/favicon.ico" : value);
const setAttribute = Element.prototype.setAttribute;
Element.prototype.setAttribute = function (name, value) {
  return setAttribute.call(this, name, ours(value));
};
const source = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");
Object.defineProperty(HTMLImageElement.prototype, "src", {
  ...source,
  set(value) {
    source.set.call(this, ours(value));
  },
});
