"""Template of the HTML page of a run; it loads nothing from elsewhere."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}} · corda_jax</title>
<style>
  :root { color-scheme: light; --ink: #1c2330; --quiet: #667085; --line: #e3e7ee; --paper: #fff; }
  * { box-sizing: border-box; }
  body { margin: 0 auto; max-width: 1180px; padding: 28px 24px 60px; color: var(--ink);
         background: #f6f7f9; font: 15px/1.5 system-ui, sans-serif; }
  h1 { font-size: 24px; margin: 0 0 16px; overflow-wrap: anywhere; }
  h1 small { color: var(--quiet); font-weight: 400; font-size: 15px; }
  h2 { font-size: 17px; margin: 0 0 12px; }
  section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
            padding: 18px 20px; margin-top: 18px; }
  .cards { display: flex; flex-wrap: wrap; gap: 12px; }
  .card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
          padding: 12px 18px; }
  .card b { display: block; font-size: 22px; }
  .card span, p { color: var(--quiet); }
  table { border-collapse: collapse; width: 100%; font-size: 14px; }
  th { text-align: left; color: var(--quiet); font-weight: 500; }
  th, td { padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
  .swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
            margin-right: 8px; vertical-align: -1px; }
  .number { display: inline-block; width: 46px; text-align: right; margin-right: 10px;
            font-variant-numeric: tabular-nums; }
  .bar { display: inline-block; width: calc(100% - 60px); max-width: 320px; height: 9px;
         background: #eef1f5; border-radius: 5px; overflow: hidden; vertical-align: middle; }
  .bar i { display: block; height: 100%; }
  .figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr));
             gap: 14px; }
  .figures img { width: 100%; }
  .figures .wide { grid-column: 1 / -1; }
  details { margin: 6px 0; }
  details img { max-width: 100%; margin-top: 8px; }
  summary { cursor: pointer; color: var(--quiet); }
</style>
</head>
<body>
<h1>{{title}} <small>corda_jax</small></h1>
{{body}}
</body>
</html>
"""
