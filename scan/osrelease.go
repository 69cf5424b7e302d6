package scan

import (
	"cmp"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// parseOSRelease returns what an os-release file says (os-release(5)). The file is shell assignments without expansion: the last
// assignment of a name counts, an unknown line is skipped, and a missing ID means "linux". Whoever built the layer wrote it.
func parseOSRelease(text []byte) gate.OS {
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ID", "VERSION_ID", "NAME", "PRETTY_NAME":
			if found {
				values[name] = strings.ToValidUTF8(unquoteShell(value), "\uFFFD")
			}
		}
	}
	return gate.OS{
		ID:      cmp.Or(values["ID"], "linux"),
		Version: values["VERSION_ID"],
		Name:    cmp.Or(values["PRETTY_NAME"], values["NAME"]),
	}
}

// unquoteShell returns the value of a shell word without expansion: quotes taken off, and backslashes where the shell would.
func unquoteShell(word string) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(word); i++ {
		c := word[i]
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(word):
			i++
			if quote == '"' && !strings.ContainsRune("\\\"$`", rune(word[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(word[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
