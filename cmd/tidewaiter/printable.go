package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
)

// maxPrintableRunes bounds one text on a terminal: the longest path Linux has, were every byte of it a rune.
const maxPrintableRunes = 4096

// replacement is what a rune that a terminal would act on is shown as: it was there, and it did nothing.
const replacement = unicode.ReplacementChar

// printable returns the start of text as a terminal may be given it: every rune that a terminal would act on, or that would have it
// show the others in another order, is replaced. Names, versions, paths and reasons were written by whoever built the image.
func printable(text string) string {
	var b strings.Builder
	runes := 0
	for _, r := range text {
		if runes++; runes > maxPrintableRunes {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) { // controls, line ends, tabs, escapes, marks of direction, and what is no text at all
			r = replacement
		}
		b.WriteRune(r)
	}
	return b.String()
}

// printableLines is printable for talk of several lines, each of which is its own text.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// escapedJSON returns JSON that says the same with what a terminal would act on written as escapes. encoding/json leaves some of it as
// it is.
func escapedJSON(encoded []byte) string {
	var b strings.Builder
	for _, r := range string(encoded) {
		if r == '\n' || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) { // only strings hold such a rune, and this is how they may write any
			_, _ = fmt.Fprintf(&b, `\u%04x`, unit) // a strings.Builder never fails
		}
	}
	return b.String()
}

// writeLine writes one line. format is ours and so are numbers; every other argument is written as [printable] has it.
func writeLine(w io.Writer, format string, args ...any) {
	shown := make([]any, len(args))
	for i, arg := range args {
		if _, ok := arg.(int); ok {
			shown[i] = arg
			continue
		}
		shown[i] = printable(fmt.Sprint(arg))
	}
	_, _ = fmt.Fprintf(w, format+"\n", shown...) // a strings.Builder never fails, and a tabwriter tells with Flush
}

// writeRow writes one row of a table to a tabwriter.
func writeRow(table io.Writer, cells ...any) {
	writeLine(table, strings.TrimSuffix(strings.Repeat("%s\t", len(cells)), "\t"), cells...)
}
