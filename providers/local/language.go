package local

import (
	"path"
	"regexp"
	"strings"
)

var languageNames = map[string]string{
	"go": "go", "golang": "go", "js": "javascript", "javascript": "javascript", "jsx": "javascript", "mjs": "javascript", "cjs": "javascript", "node": "javascript", "javascriptreact": "javascript",
	"ts": "typescript", "typescript": "typescript", "tsx": "typescript", "mts": "typescript", "typescriptreact": "typescript",
	"py": "python", "python": "python", "python3": "python", "pyw": "python", "java": "java", "c": "c", "h": "c",
	"cpp": "cpp", "c++": "cpp", "cc": "cpp", "cxx": "cpp", "hpp": "cpp", "hh": "cpp", "cs": "csharp", "c#": "csharp", "csharp": "csharp",
	"php": "php", "phtml": "php", "rb": "ruby", "ruby": "ruby", "rs": "rust", "rust": "rust",
	"sh": "shell", "bash": "shell", "shell": "shell", "zsh": "shell", "shellscript": "shell", "ksh": "shell", "sql": "sql", "mysql": "sql", "postgresql": "sql", "plsql": "sql",
	"html": "html", "htm": "html", "xhtml": "html", "vue": "html", "svelte": "html",
	"kt": "kotlin", "kts": "kotlin", "kotlin": "kotlin", "swift": "swift", "scala": "scala", "pl": "perl", "perl": "perl", "lua": "lua",
}

// maxSniff is how much of the code is looked at to tell its language.
const maxSniff = 16 << 10

var (
	interpreter = regexp.MustCompile(`^#!\s*\S*?(?:/env\s+(?:-S\s+)?)?([a-z]+)[0-9.]*(?:\s|$)`)
	signs       = []struct {
		language string
		re       *regexp.Regexp
	}{
		{"php", regexp.MustCompile(`<\?php`)},
		{"html", regexp.MustCompile(`(?i)^\s*(?:<!doctype html|<html|<head|<body|<div|<script)`)},
		{"go", regexp.MustCompile(`(?m)^package \w+\s*$|^func (?:\(\w+ \*?\w+\) )?\w+\(.*\{\s*$|:= `)},
		{"rust", regexp.MustCompile(`(?m)^\s*(?:pub )?fn \w+.*(?:->|\{)|^\s*let mut |^use \w+::`)},
		{"csharp", regexp.MustCompile(`(?m)^\s*using System|^\s*namespace [\w.]+\s*[{;]`)},
		{"java", regexp.MustCompile(`(?m)^\s*(?:import java|package [\w.]+;|public (?:final |abstract )?class )`)},
		{"cpp", regexp.MustCompile(`(?m)^\s*#include\s*<(?:iostream|vector|string|memory|map)>|std::|^\s*template\s*<`)},
		{"c", regexp.MustCompile(`(?m)^\s*#include\s*[<"]|^\s*(?:int|void|char) \**\w+\s*\([^)]*\)\s*\{?\s*$`)},
		{"python", regexp.MustCompile(`(?m)^\s*def \w+\(.*:\s*(?:#.*)?$|^\s*(?:from [\w.]+ )?import [\w.]+(?: as \w+)?\s*$|^\s*class \w+.*:\s*$|^\s*print\(`)},
		{"ruby", regexp.MustCompile(`(?m)^\s*def \w+[^:]*$[\s\S]*^\s*end\s*$|^\s*require ['"]|^\s*puts `)},
		{"sql", regexp.MustCompile(`(?im)^\s*(?:select\s[\s\S]*\sfrom\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|create\s+(?:table|view|index)\s)`)},
		{"typescript", regexp.MustCompile(`(?m)^\s*(?:export )?(?:interface|type) \w+.*[{=]|\w\s*:\s*(?:string|number|boolean)\b`)},
		{"javascript", regexp.MustCompile(`\b(?:const|let|var)\s+[\w${\[]|\bfunction\b|=>|\bdocument\.|\bconsole\.|\brequire\(|\beval\(`)},
		{"shell", regexp.MustCompile(`(?m)^\s*(?:echo|export|if \[|fi|done|sudo|curl|apt-get)\b`)},
	}
)

// detect names the language of the code by what the client says, then by the
// file's name, then by the code; "" where nothing tells.
func detect(language, filename, code string) string {
	if l, ok := languageNames[strings.ToLower(strings.TrimSpace(language))]; ok {
		return l
	}
	base := path.Base(strings.ReplaceAll(filename, `\`, "/"))
	if l, ok := languageNames[strings.ToLower(strings.TrimPrefix(path.Ext(base), "."))]; ok {
		return l
	}
	if head := code[:min(len(code), maxSniff)]; language == "" {
		if m := interpreter.FindStringSubmatch(head[:min(len(head), 256)]); m != nil {
			if l, ok := languageNames[m[1]]; ok {
				return l
			}
		}
		for _, s := range signs {
			if s.re.MatchString(head) {
				return s.language
			}
		}
	}
	return ""
}
