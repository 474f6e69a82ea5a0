// The filter of the layer table: words, globs and "re:" patterns, all of which must match; "!" in front negates.

function globPattern(glob) {
  const body = glob.replace(/[.+^${}()|\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(`(^|\\.)${body}$`, "i"); // a glob may start at any component of the path
}

/** Return {test(name, words), error}: `name` is the path, `words` all that a plain word is looked for in. */
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
        const word = plain.toLowerCase();
        test = (name, words) => words.includes(word);
      }
    } catch (error) {
      return { test: () => true, error: `“${plain}” is no valid pattern: ${error.message.replace(/^.*: /, "")}` };
    }
    tests.push(negated ? (name, words) => !test(name, words) : test);
  }
  return { test: (name, words) => tests.every((test) => test(name, words)), error: "" };
}
