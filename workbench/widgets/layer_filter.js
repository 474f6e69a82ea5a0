// The filter of the layer table: words, globs, "re:" patterns and "kind:norm" (or decision, reason, padding, status), all
// of which must match; "!" in front negates.

const FIELDS = ["kind", "decision", "reason", "padding", "status"];

function globPattern(glob) {
  const body = glob.replace(/[.+^${}()|\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(`(^|\\.)${body}$`, "i"); // a glob may start at any component of the path
}

/** Return {test(name, fields), error}: `name` is the path, `fields` the texts of the row by column. */
function parseFilter(text) {
  const tests = [];
  for (const term of text.split(/\s+/).filter(Boolean)) {
    const negated = term.startsWith("!") && term.length > 1;
    const plain = negated ? term.slice(1) : term;
    let test;
    try {
      if (plain.startsWith("re:")) {
        const pattern = new RegExp(plain.slice(3), "i");
        test = (name) => pattern.test(name);
      } else if (/[*?[]/.test(plain)) {
        const pattern = globPattern(plain);
        test = (name) => pattern.test(name);
      } else {
        const cut = plain.indexOf(":");
        const field = FIELDS.includes(plain.slice(0, cut)) ? plain.slice(0, cut) : "";
        const word = plain.slice(field ? cut + 1 : 0).toLowerCase();
        test = field
          ? (name, fields) => String(fields[field] ?? "").toLowerCase().includes(word)
          : (name, fields) => [name, fields.kind, fields.decision, fields.status].join(" ").toLowerCase().includes(word);
      }
    } catch (error) {
      return { test: () => true, error: `“${plain}” is no valid pattern: ${error.message.replace(/^.*: /, "")}` };
    }
    tests.push(negated ? (name, fields) => !test(name, fields) : test);
  }
  return { test: (name, fields) => tests.every((test) => test(name, fields)), error: "" };
}
